from collections.abc import Callable

import pytest

from rlhf.evaluation.reward_card.card import Card, Limits, measure, rules
from rlhf.evaluation.reward_card.pairs import Side, score_pairs, side

LIMITS = Limits(probe_rows=0, calibration_bins=10, bootstrap=200, seed=0)


class Counting:
    """A reward model whose token ids are characters and whose score of a text is ``value(text)``."""

    def __init__(self, value: Callable[[str], float]):
        self.value = value

    def encode(self, prompt: str, completion: str) -> list[int]:
        return [*map(ord, completion)]

    def score(self, rows: list[list[int]]) -> list[float]:
        return [self.value("".join(map(chr, row))) for row in rows]

    def __call__(self, prompts: list[str], completions: list[str]) -> list[float]:
        return [self.value(text) for text in completions]


def pairs_of(split: str, count: int = 24) -> list[dict]:
    """Return pairs of short and long responses. The chosen ones contain "good", except in every eighth pair."""
    made = []
    for i in range(count):
        name = f"{split.replace(' ', '')}{i}"  # differs by split, or a bag of words would memorize the wrong labels
        sides = [f"good {'so ' * (i % 3)}{name}", f"evil {'so ' * (i % 2)}{name}"]
        chosen, rejected = sides if i % 8 else sides[::-1]
        row = {"prompt": f"{split} {i // 2}", "chosen": chosen, "rejected": rejected}
        made.append(row | {"margin": float(i % 4), "confidence": 0.5 + i / 100, "source": f"<b>s{i % 2}|$x$</b>"})
    return made


def sides_of(split: str) -> tuple[Side, Side]:
    return side(pairs_of(split), "chosen"), side(pairs_of(split), "rejected")


@pytest.fixture
def card() -> Callable[..., Card]:
    def of(value: Callable[[str], float], test: str = "test", validation: str = "validation") -> Card:
        reward = Counting(value)
        differences = rules(sides_of("train"), sides_of(validation), sides_of(test))
        scored = [score_pairs(pairs_of(split), reward) for split in (test, validation)]
        return measure("my|model", reward, *scored, differences, LIMITS)

    return of
