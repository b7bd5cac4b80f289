"""How much a batch of responses repeats itself: within each response, and from one response to the next."""

from collections.abc import Sequence

Tokens = Sequence[int]


def repetition(responses: Sequence[Tokens], n: int = 4) -> float:
    """Mean over responses of 1 - (distinct n-grams / n-grams); of a response shorter than ``n`` tokens it is 0.

    seq-rep-n of Welleck et al. 2020, https://arxiv.org/abs/1908.04319, eq. 13, there with n = 4.
    """
    return sum(_repeated(response, n) for response in responses) / len(responses)


def _repeated(response: Tokens, n: int) -> float:
    grams = list(zip(*(response[start:] for start in range(n)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(responses: Sequence[Tokens]) -> float:
    """Different responses as a share of all: 1 where no two are equal, 1 / B where all B are."""
    return len({tuple(response) for response in responses}) / len(responses)
