"""Held-out pairs with the scores of a reward model, and its accuracy on parts of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from rlhf.console import plural
from rlhf.data.render import Prompt
from rlhf.data.rows import Row, prompt_key
from rlhf.data.templates import PROBES
from rlhf.errors import DataError
from rlhf.evaluation.statistics.intervals import Share, share
from rlhf.rewards import RewardFunction, checked

PARTS = 5  # at most, by a number such as the margin
SOURCES = 20  # reported by name; the others as one part
LABELS = {"length difference": "length difference, chosen - rejected (characters)"}  # property of pairs -> label


class Side(NamedTuple):
    """One response of each pair, chosen or rejected. In conversations, turns before the last belong to the prompt."""

    prompts: list[Prompt]
    completions: list[str]


@dataclass
class ScoredPairs:
    """Pairs with the scores of their chosen and rejected responses, each (N,); ``rows`` are the rows of the data."""

    rows: list[Row]
    chosen: Side
    rejected: Side
    chosen_scores: np.ndarray
    rejected_scores: np.ndarray

    @property
    def differences(self) -> np.ndarray:
        """Score of the chosen response - that of the rejected one, (N,)."""
        return self.chosen_scores - self.rejected_scores

    @property
    def right(self) -> np.ndarray:
        """1 if the chosen response scores higher, ½ for a tie, else 0, (N,)."""
        return decided(self.differences)

    @property
    def prompts(self) -> list[str]:
        """A key of each pair's prompt, the sampling unit of the intervals."""
        return [prompt_key(row) for row in self.rows]

    @property
    def lengths(self) -> np.ndarray:
        """Characters of the chosen and the rejected completions, (2, N)."""
        return np.array([[len(text) for text in side.completions] for side in (self.chosen, self.rejected)])


def decided(differences: np.ndarray) -> np.ndarray:
    """Return 1 for a positive difference, ½ for zero, 0 for a negative one."""
    return (differences > 0) + 0.5 * (differences == 0)


def side(rows: Iterable[Row], name: str) -> Side:
    """Return the responses of the column ``name``, chosen or rejected."""
    prompts, completions = [], []
    for row in rows:
        response = row[name]
        conversational = not isinstance(response, str)
        prompts.append([*row["prompt"], *response[:-1]] if conversational else row["prompt"])
        completions.append(response[-1]["content"] if conversational else response)
    return Side(prompts, completions)


def check_answers(rows: Iterable[Row]) -> None:
    """Reject pairs whose responses are more than text, which the report card cannot evaluate.

    Raises:
        DataError: the last turn of a response has tool calls or reasoning.
    """
    for row in rows:
        for name in ("chosen", "rejected"):
            more = [] if isinstance(row[name], str) else [key for key in row[name][-1] if key in PROBES]
            if more:
                raise DataError(
                    f"field '{name}.{more[0]}' is in the last turn of a pair, but a reward model's report needs text: "
                    "leave such pairs out, or train on them with stage=dpo"
                )


def score_pairs(rows: Iterable[Row], reward: RewardFunction) -> ScoredPairs:
    """Score both responses of every pair.

    Raises:
        TrainingError: a score is not a finite number.
    """
    kept = list(rows)
    chosen, rejected = side(kept, "chosen"), side(kept, "rejected")
    texts = [*chosen.completions, *rejected.completions]
    scores = np.array(checked(reward([*chosen.prompts, *rejected.prompts], texts), texts))  # a prompt is computed once
    return ScoredPairs(kept, chosen, rejected, *np.split(scores, 2))


class Part(NamedTuple):
    """A named subset of the pairs with the reward model's accuracy on it."""

    name: str
    accuracy: Share


def by_number(values: Sequence[float | None], pairs: ScoredPairs, shown: Callable[[float], str]) -> list[Part]:
    """Return the accuracy on up to `PARTS` quantiles of a number; pairs without the number are left out."""
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


def groups(values: Sequence[Any]) -> dict[str, list[int]]:
    """Return name -> the places of its values, the most frequent first; those after the first `SOURCES` are combined.

    Values that are None are left out.
    """
    places: dict[str, list[int]] = {}
    for i, value in enumerate(values):
        if value is not None:
            places.setdefault(str(value), []).append(i)
    order = sorted(places, key=lambda name: (-len(places[name]), name))
    rest = sorted(i for name in order[SOURCES:] for i in places[name])
    return {name: places[name] for name in order[:SOURCES]} | (
        {plural(len(order) - SOURCES, "other"): rest} if rest else {}
    )


def by_name(values: Sequence[Any], pairs: ScoredPairs) -> list[Part]:
    """Return the accuracy for each of the `groups` of ``values``."""
    return [Part(name, _accuracy(pairs, places)) for name, places in groups(values).items()]


def turns(prompt: Prompt) -> int:
    """Return the number of the user's turns in a prompt."""
    return 1 if isinstance(prompt, str) else sum(turn["role"] == "user" for turn in prompt)


def named(pairs: ScoredPairs) -> dict[str, list[Any]]:
    """Return the properties of the pairs that are names, and the turns if they differ: one value per pair."""
    found: dict[str, list[Any]] = {
        name: [row.get(name) for row in pairs.rows] for name in ("source", "task", "language")
    }
    found["turns"] = [turns(prompt) for prompt in pairs.chosen.prompts]
    return {
        name: values for name, values in found.items() if {*values} - {None} and (name != "turns" or len({*values}) > 1)
    }


def parts(pairs: ScoredPairs) -> dict[str, list[Part]]:
    """Return the accuracy by each known property of the pairs."""
    chosen, rejected = pairs.lengths
    found = {
        "length difference": by_number((chosen - rejected).tolist(), pairs, lambda value: f"{value:+.0f}"),
        "margin": by_number([row.get("margin") for row in pairs.rows], pairs, lambda value: f"{value:.3g}"),
        "confidence": by_number([row.get("confidence") for row in pairs.rows], pairs, lambda value: f"{value:.3g}"),
    }
    found |= {name: by_name(values, pairs) for name, values in named(pairs).items()}
    return {name: values for name, values in found.items() if values}


def _accuracy(pairs: ScoredPairs, indices: Sequence[int]) -> Share:
    prompts = pairs.prompts
    return share(pairs.right[list(indices)], [prompts[i] for i in indices])


def length_correlation(pairs: ScoredPairs) -> dict[str, float | None]:
    """Return Pearson's and Spearman's correlation of score and characters, and Spearman's of the differences in pairs.

    The differences do not depend on the prompt. None if the scores or the lengths are constant.
    """
    lengths, scores = pairs.lengths, np.array([pairs.chosen_scores, pairs.rejected_scores])
    length_difference = lengths[0] - lengths[1]
    return {
        "pearson": correlation(lengths.ravel(), scores.ravel()),
        "spearman": correlation(rankdata(lengths.ravel()), rankdata(scores.ravel())),
        "spearman_of_differences": correlation(rankdata(length_difference), rankdata(pairs.differences)),
    }


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return Pearson's correlation; None if one side is constant."""
    return None if np.ptp(a) == 0 or np.ptp(b) == 0 else float(np.corrcoef(a, b)[0, 1])
