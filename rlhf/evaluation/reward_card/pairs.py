"""Held-out pairs with the scores of a reward model, and its accuracy on them, whole and in parts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from rlhf.data.render import Prompt
from rlhf.data.rows import Row, prompt_key
from rlhf.data.templates import PROBES
from rlhf.errors import DataError
from rlhf.evaluation.statistics.intervals import Share, share
from rlhf.rewards import RewardFunction, checked

PARTS = 5  # of a number that pairs are told apart by
SOURCES = 20  # that are told apart by name
LABELS = {"length difference": "length difference, chosen - rejected (characters)"}  # of what pairs are told apart by


class Side(NamedTuple):
    """One response of each pair: what it answers and what it says. Turns before the last belong to the prompt."""

    prompts: list[Prompt]
    completions: list[str]


@dataclass
class ScoredPairs:
    """``scores`` of the chosen and of the rejected responses, (N,); ``rows`` as they were read."""

    rows: list[Row]
    chosen: Side
    rejected: Side
    chosen_scores: np.ndarray
    rejected_scores: np.ndarray

    @property
    def differences(self) -> np.ndarray:
        return self.chosen_scores - self.rejected_scores

    @property
    def right(self) -> np.ndarray:
        """1 where the chosen response scores higher, ½ where both score the same, else 0."""
        return decided(self.differences)

    @property
    def prompts(self) -> list[str]:
        """What pairs have in common: the unit that intervals are drawn by."""
        return [prompt_key(row) for row in self.rows]

    @property
    def lengths(self) -> np.ndarray:
        """Characters of the chosen and the rejected completions, (2, N)."""
        return np.array([[len(text) for text in side.completions] for side in (self.chosen, self.rejected)])


def decided(differences: np.ndarray) -> np.ndarray:
    return (differences > 0) + 0.5 * (differences == 0)


def side(rows: Iterable[Row], name: str) -> Side:
    """The responses in the column ``name``, chosen or rejected."""
    prompts, completions = [], []
    for row in rows:
        response = row[name]
        talk = not isinstance(response, str)
        prompts.append([*row["prompt"], *response[:-1]] if talk else row["prompt"])
        completions.append(response[-1]["content"] if talk else response)
    return Side(prompts, completions)


def check_answers(rows: Iterable[Row]) -> None:
    """Refuse pairs whose responses are more than text: a report, its probes and its baselines read text.

    Raises:
        DataError: the last turn of a response calls a tool, or has reasoning beside it.
    """
    for row in rows:
        for name in ("chosen", "rejected"):
            more = [] if isinstance(row[name], str) else [key for key in row[name][-1] if key in PROBES]
            if more:
                raise DataError(
                    f"field '{name}.{more[0]}' is in the last turn of a pair, and a reward model's report reads text: "
                    "leave such pairs out, or learn from them with stage=dpo"
                )


def score_pairs(rows: Iterable[Row], reward: RewardFunction) -> ScoredPairs:
    """Score both responses of every pair.

    Raises:
        TrainingError: a score is not a finite number.
    """
    kept = list(rows)
    sides = [side(kept, name) for name in ("chosen", "rejected")]
    scores = [np.array(checked(reward(*one), one.completions)) for one in sides]
    return ScoredPairs(kept, *sides, *scores)


class Part(NamedTuple):
    """Pairs that have something in common, and how often the reward model is right about them."""

    name: str
    accuracy: Share


def by_number(values: Sequence[float | None], pairs: ScoredPairs, shown: Callable[[float], str]) -> list[Part]:
    """Pairs in up to five parts of about equal size by a number; pairs that have none are left out."""
    known = [i for i, value in enumerate(values) if value is not None]
    if not known:
        return []
    found = np.array([values[i] for i in known], dtype=float)
    distinct = np.unique(found)
    if len(distinct) <= PARTS:
        edges = distinct
    else:
        edges = np.unique(np.quantile(found, np.linspace(0, 1, PARTS + 1)[:-1], method="lower"))
    at = np.searchsorted(edges, found, side="right") - 1
    parts = []
    for number in np.unique(at):
        inside = found[at == number]
        low, high = shown(inside.min()), shown(inside.max())
        name = low if low == high else f"{low} to {high}"
        parts.append(Part(name, _accuracy(pairs, [known[i] for i in np.flatnonzero(at == number)])))
    return parts


def by_name(values: Sequence[Any], pairs: ScoredPairs) -> list[Part]:
    """Pairs by what they are called, the largest parts first; those after the twentieth together."""
    members: dict[str, list[int]] = {}
    for i, value in enumerate(values):
        if value is not None:
            members.setdefault(str(value), []).append(i)
    order = sorted(members, key=lambda name: (-len(members[name]), name))
    parts = [Part(name, _accuracy(pairs, members[name])) for name in order[:SOURCES]]
    rest = [i for name in order[SOURCES:] for i in members[name]]
    return parts + ([Part(f"{len(order) - SOURCES} others", _accuracy(pairs, rest))] if rest else [])


def parts(pairs: ScoredPairs) -> dict[str, list[Part]]:
    """Accuracy by everything that is known about the pairs; what they do not say is left out."""
    chosen, rejected = pairs.lengths
    found = {
        "length difference": by_number((chosen - rejected).tolist(), pairs, lambda value: f"{value:+.0f}"),
        "margin": by_number([row.get("margin") for row in pairs.rows], pairs, lambda value: f"{value:.3g}"),
        "confidence": by_number([row.get("confidence") for row in pairs.rows], pairs, lambda value: f"{value:.3g}"),
        "source": by_name([row.get("source") for row in pairs.rows], pairs),
        "task": by_name([row.get("task") for row in pairs.rows], pairs),
    }
    return {name: values for name, values in found.items() if values}


def _accuracy(pairs: ScoredPairs, indices: Sequence[int]) -> Share:
    prompts = pairs.prompts
    return share(pairs.right[list(indices)], [prompts[i] for i in indices])


def length_correlation(pairs: ScoredPairs) -> dict[str, float | None]:
    """Pearson's and Spearman's correlation of score and characters over all responses, and of their differences.

    The difference within a pair is free of what prompts differ by. None where one of the two does not vary.
    """
    lengths, scores = pairs.lengths, np.array([pairs.chosen_scores, pairs.rejected_scores])
    length_difference = lengths[0] - lengths[1]
    return {
        "pearson": correlation(lengths.ravel(), scores.ravel()),
        "spearman": correlation(rankdata(lengths.ravel()), rankdata(scores.ravel())),
        "spearman_of_differences": correlation(rankdata(length_difference), rankdata(pairs.differences)),
    }


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    return None if np.ptp(a) == 0 or np.ptp(b) == 0 else float(np.corrcoef(a, b)[0, 1])
