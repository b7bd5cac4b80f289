"""Repetition within the responses of a batch, and between them."""

from collections.abc import Sequence

Tokens = Sequence[int]


def repetition(responses: Sequence[Tokens], n: int = 4) -> float:
    """Return the mean over responses of 1 - (distinct n-grams / n-grams); 0 for responses of fewer than ``n`` tokens.

    seq-rep-n of Welleck et al. 2020, https://arxiv.org/abs/1908.04319, eq. 13, with n = 4.
    """
    return sum(_repeated(response, n) for response in responses) / len(responses)


def _repeated(response: Tokens, n: int) -> float:
    grams = list(zip(*(response[start:] for start in range(n)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(responses: Sequence[Tokens]) -> float:
    """Return the share of distinct responses: 1 if no two are equal, 1 / B if all B are equal."""
    return len({tuple(response) for response in responses}) / len(responses)
