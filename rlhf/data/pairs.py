"""Pairs of completions from rankings, scores, votes, and thumbs up or down."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from rlhf.config import Pairing, Rankings, Ties
from rlhf.data.render import Prompt
from rlhf.data.rows import Row, prompt_key
from rlhf.data.singles import ORIGIN

SAME = "pairs with chosen and rejected the same"
TIED = "pairs of equally good responses"
UNCLEAR = "pairs below data.pairing.score_ratio"
UNPAIRED = "completions without a counterpart"
MIDDLING = "responses with the mean score of their prompt"


class Ranked(NamedTuple):
    """Responses to one prompt, each with a score; higher is better.

    If they are ``graded``, differences of scores are meaningful and become margins.
    """

    prompt: Prompt
    responses: Sequence[tuple[Prompt, float]]
    graded: bool
    ratio: float | None = None  # of the votes of two responses, if the data set has it
    ties: bool = True  # whether responses with equal scores were compared and found equally good

    def best(self) -> Prompt:
        """Return the completion with the highest score, the first of several."""
        return max(self.responses, key=lambda response: response[1])[0]


class Rated(NamedTuple):
    """One response with its score; other rows may hold other responses to the same prompt."""

    prompt: Prompt
    completion: Prompt
    score: float
    graded: bool
    demonstrates: bool  # whether it is good enough to be imitated


def pairs(ranked: Ranked, pairing: Pairing, left_out: Counter[str]) -> list[Row]:
    """Return the pairs that ``pairing`` makes of ranked responses, best first; count the others in ``left_out``.

    Each of n > 1 pairs has the weight 1/n, so that a prompt counts once however many responses it has (Ouyang et al.
    2022, https://arxiv.org/abs/2203.02155, equation 1).
    """
    if ranked.ratio is not None and ranked.ratio < pairing.score_ratio:
        left_out[UNCLEAR] += 1
        return []
    ordered = sorted(ranked.responses, key=lambda response: -response[1])
    if pairing.rankings is Rankings.all:
        compared = list(itertools.combinations(ordered, 2))
    else:
        others = ordered[1:] if pairing.rankings is Rankings.best else ordered[-1:] if len(ordered) > 1 else []
        compared = [(ordered[0], other) for other in others]
    made: list[tuple[Row, float]] = []
    for (good, high), (bad, low) in compared:
        pair: Row = {"prompt": ranked.prompt, "chosen": good, "rejected": bad}
        pair |= {"margin": high - low} if ranked.graded else {}
        if good == bad and (high > low or ranked.ties):
            left_out[SAME] += 1
        elif high > low:
            made.append((pair, 1.0))
        elif not ranked.ties:
            continue
        elif pairing.ties is Ties.both:
            made += [(pair, 0.5), (pair | {"chosen": bad, "rejected": good}, 0.5)]
        else:
            left_out[TIED] += 1
    total = sum(share for _, share in made)
    return [row if len(made) == 1 else row | {"weight": share / total} for row, share in made]


def sides(found: Ranked | Rated, pairing: Pairing, left_out: Counter[str]) -> list[Row]:
    """Return judged responses as single rows, each with a label or a rating; count the others in ``left_out``.

    Responses above the mean score of their prompt have the label 1, desirable, those below 0; of two, the better one
    has 1. A single thumb has its own label. A single rating is kept, since only all of them show which are high.
    """
    if isinstance(found, Rated):
        row = {"prompt": found.prompt, "completion": found.completion}
        name, origin = ("rating", "ratings") if found.graded else ("label", "thumbs")
        return [row | {name: found.score, ORIGIN: origin}]
    if found.ratio is not None and found.ratio < pairing.score_ratio:
        left_out[UNCLEAR] += 1
        return []
    scores = [score for _, score in found.responses]
    mean = sum(scores) / max(len(scores), 1)
    kept = [(response, score) for response, score in found.responses if score != mean]
    left_out[MIDDLING] += len(scores) - len(kept)
    row = {"prompt": found.prompt, ORIGIN: "rankings" if len(scores) > 2 else "pairs"}
    return [row | {"completion": response, "label": float(score > mean)} for response, score in kept]


def both(pair: Row) -> list[Row]:
    """Return the desirable and the undesirable response of a pair with chosen and rejected."""
    labels = {"chosen": 1.0, "rejected": 0.0}
    return [pair | {"completion": pair[side], "label": label, ORIGIN: "pairs"} for side, label in labels.items()]


class Waiting:
    """Responses that wait for another one to the same prompt: a thumb up for a thumb down, a rating for another rating.

    Each is used once, in the order of the rows; only those that still wait are in memory.
    """

    def __init__(self) -> None:
        self._rated: dict[str, list[Rated]] = defaultdict(list)

    def __len__(self) -> int:
        return sum(map(len, self._rated.values()))

    def match(self, rated: Rated, pairing: Pairing, left_out: Counter[str]) -> list[Row]:
        """Return the pair of ``rated`` and the first waiting response that compares with it, or let it wait."""
        key = prompt_key({"prompt": rated.prompt})
        waiting = self._rated[key]
        tied_too = rated.graded  # two thumbs up are not a tie: each may still meet a thumb down
        for i, other in enumerate(waiting):
            if other.score != rated.score or tied_too:
                del waiting[i]
                if not waiting:
                    del self._rated[key]
                two = [(other.completion, other.score), (rated.completion, rated.score)]
                return pairs(Ranked(rated.prompt, two, rated.graded), pairing, left_out)
        waiting.append(rated)
        return []
