"""Pairs of completions from what people really collect: rankings, scores, votes, and thumbs up or down."""

import itertools
from collections import Counter, defaultdict
from typing import NamedTuple

from rlhf.config import Pairing, Rankings, Ties
from rlhf.data.render import Prompt
from rlhf.data.rows import Row, prompt_key

SAME = "pairs with chosen and rejected the same"
TIED = "pairs of equally good responses"
UNCLEAR = "pairs below data.pairing.score_ratio"
UNPAIRED = "completions without a counterpart"


class Ranked(NamedTuple):
    """Responses to one prompt with a score each, the higher the better.

    ``graded`` says whether differences of scores mean something: they become margins then.
    """

    prompt: Prompt
    responses: list[tuple[Prompt, float]]
    graded: bool
    ratio: float | None = None  # of the votes of the two, where the data set gives it
    ties: bool = True  # whether responses of one score were compared and found equally good

    def best(self) -> Prompt:
        """The completion of the highest score, the first of several."""
        return max(self.responses, key=lambda response: response[1])[0]


class Rated(NamedTuple):
    """One response with a score of its own; other rows may hold other responses to the same prompt."""

    prompt: Prompt
    completion: Prompt
    score: float
    graded: bool
    demonstrates: bool  # whether it is good enough to be imitated


def pairs(ranked: Ranked, pairing: Pairing, left_out: Counter[str]) -> list[Row]:
    """The pairs that ``pairing`` makes of ranked responses, best first; what gives none is counted in ``left_out``.

    With more than one pair each has the weight 1/n, so that a prompt counts once however many responses it has
    (Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, equation 1).
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
        pair = {"prompt": ranked.prompt, "chosen": good, "rejected": bad}
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


class Waiting:
    """Responses that wait for another one to the same prompt: thumbs up for thumbs down, a rating for another rating.

    Each is used once, in the order of the rows; only what still waits is held in memory.
    """

    def __init__(self) -> None:
        self._rated: dict[str, list[Rated]] = defaultdict(list)

    def __len__(self) -> int:
        return sum(map(len, self._rated.values()))

    def match(self, rated: Rated, pairing: Pairing, left_out: Counter[str]) -> list[Row]:
        """The pair of ``rated`` and the first other response that waits and compares with it, if there is one."""
        key = prompt_key({"prompt": rated.prompt})
        waiting = self._rated[key]
        tied_too = rated.graded  # two thumbs up are no tie: each may still meet a thumb down
        for i, other in enumerate(waiting):
            if other.score != rated.score or tied_too:
                del waiting[i]
                if not waiting:
                    del self._rated[key]
                two = [(other.completion, other.score), (rated.completion, rated.score)]
                return pairs(Ranked(rated.prompt, two, rated.graded), pairing, left_out)
        waiting.append(rated)
        return []
