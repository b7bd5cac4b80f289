"""What is measured of responses: pure functions of numbers and texts, with intervals.

Every interval is a percentile bootstrap over prompts (Efron 1979): the samples of one prompt are not independent, so
they are drawn together.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean with the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"


def estimate(groups: Sequence[Sequence[float]], draws: int, seed: int, level: float = 0.95) -> Estimate:
    """Mean over prompts of the mean over a prompt's samples, with a percentile bootstrap interval over prompts.

    ``groups`` holds one sequence of numbers per prompt.

    Raises:
        ValueError: there is no prompt, or a prompt without a number.
    """
    if not groups or not all(len(group) for group in groups):
        raise ValueError("an estimate needs at least one number for each of at least one prompt")
    means = np.array([np.mean(group) for group in groups])
    generator = np.random.default_rng(seed)
    drawn = means[generator.integers(len(means), size=(draws, len(means)))].mean(axis=1)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(means.mean()), float(low), float(high))


def wins(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """1 where ours scores higher, 0 where theirs does, ½ for a tie."""
    return [float(a > b) + 0.5 * float(a == b) for a, b in zip(ours, theirs, strict=True)]


def win_rate(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], draws: int, seed: int) -> Estimate:
    """Share of comparisons that ours wins, ties counted half: sample j of a prompt meets sample j of the other side."""
    return estimate([wins(a, b) for a, b in zip(ours, theirs, strict=True)], draws, seed)


def distinct(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams of words as a share of all, Li et al. 2016, https://arxiv.org/abs/1510.03055; 0 without any."""
    grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def normalized(text: str) -> str:
    """A text as its lower-case words, for asking whether two answers agree."""
    return " ".join("".join(char if char.isalnum() else " " for char in text.lower()).split())


def agreement(texts: Sequence[str]) -> float:
    """Share of pairs that say the same, after `normalized`; 1 for a single text."""
    pairs = list(combinations(map(normalized, texts), 2))
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else 1.0


def agreement_between(one: Sequence[str], other: Sequence[str]) -> float:
    """Share of pairs across two sequences that say the same, after `normalized`."""
    right = [normalized(text) for text in other]
    return float(np.mean([normalized(text) == against for text in one for against in right]))


def bits_per_byte(nll: float, size: int) -> float:
    """Σ -log p in nats over ``size`` bytes of text, as bits a byte: comparable between tokenizers."""
    return nll / (size * float(np.log(2)))
