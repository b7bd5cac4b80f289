"""The scores of a benchmark's responses, in parts that an interrupted run keeps."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rlhf.console import Bar, plural
from rlhf.errors import DataError
from rlhf.evaluation.benchmarks.items import Item
from rlhf.evaluation.reward_card.judged import Prefer
from rlhf.rewards import RewardFunction, checked
from rlhf.storage.json_files import write_json

PART = 512  # responses that are scored between two saves, or one item if it has more

Score = Callable[[Sequence[Item]], list[list[float]]]  # items -> the scores of their responses


def by_reward(reward: RewardFunction) -> Score:
    """Return the scorer of ``reward``, which scores each response separately."""

    def score(items: Sequence[Item]) -> list[list[float]]:
        prompts = [item.prompt for item in items for _ in item.responses]
        texts = [text for item in items for text in item.responses]
        found = iter(checked(reward(prompts, texts), texts))
        return [[next(found) for _ in item.responses] for item in items]

    return score


def by_preference(prefer: Prefer) -> Score:
    """Return the scorer of a judge that compares two responses: p for the first one, 1 - p for the other.

    A judge without a verdict is wrong, and so is an undecided one, unless the benchmark counts a tie as half.
    """

    def score(items: Sequence[Item]) -> list[list[float]]:
        longer = next((item for item in items if len(item.responses) != 2), None)
        if longer is not None:
            raise DataError(
                f"row {longer.id!r} of the benchmark has {len(longer.responses)} responses, and stage.rubric compares "
                "two: set a rubric that scores one response, such as stage.rubric=helpful"
            )
        firsts, seconds = ([item.responses[side] for item in items] for side in (0, 1))
        found = prefer([item.prompt for item in items], firsts, seconds)
        return [_sides(value, item.tie) for value, item in zip(found, items, strict=True)]

    return score


def _sides(preferred: float | None, tie: float) -> list[float]:
    if preferred is None or (preferred == 0.5 != tie):
        return [0.0, 1.0]
    return [preferred, 1 - preferred]


def scored(items: Sequence[Item], score: Score, kept: Path) -> list[np.ndarray]:
    """Return the scores of each item's responses; those in the file ``kept`` are not computed again.

    Raises:
        TrainingError: a score is not a finite number.
        DataError: see `by_preference`.
    """
    found: list[list[float]] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else []
    bar = Bar(
        "evaluate_reward", len(items), len(found), lambda counted: [plural(n, name) for name, n in counted.items()]
    )
    try:
        while len(found) < len(items):
            part = [items[len(found)]]
            while len(found) + len(part) < len(items) and sum(len(item.responses) for item in part) < PART:
                part.append(items[len(found) + len(part)])
            found += score(part)
            write_json(kept, found)
            bar.update(len(found), {"response": sum(map(len, found))})
    finally:
        bar.close()
    return [np.array(own) for own in found]
