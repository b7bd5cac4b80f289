"""Metrics of responses: pure functions of numbers and texts, with intervals.

Every interval is a percentile bootstrap over prompts (Efron 1979): the samples of one prompt are not independent, so
they are drawn together.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

Numbers = Sequence[float] | np.ndarray  # (n,)
KEPT = 2**23  # the most indices of a bootstrap that are kept for other metrics of the same prompts: 64 MiB


class Estimate(NamedTuple):
    """A mean with the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"


def estimate(groups: Sequence[Numbers], draws: int, seed: int, level: float = 0.95) -> Estimate:
    """Return the mean over prompts of each prompt's mean, with a percentile bootstrap interval over prompts.

    ``groups`` holds the numbers of each prompt.

    Raises:
        ValueError: ``groups`` or one of the groups is empty.
    """
    if not groups or not all(len(group) for group in groups):
        raise ValueError("an estimate needs at least one number for each of at least one prompt")
    means = group_means(groups)
    drawn = means[resampled(len(means), draws, seed)].mean(axis=1)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(means.mean()), float(low), float(high))


def group_means(groups: Sequence[Numbers]) -> np.ndarray:
    """Return the mean of each group, (B,)."""
    if len({len(group) for group in groups}) > 1:
        return np.array([np.mean(group) for group in groups])
    return np.array(groups, dtype=float).mean(axis=1)


def resampled(count: int, draws: int, seed: int) -> np.ndarray:
    """Return the prompts of each draw of a bootstrap, indices (draws, count); all metrics draw the same ones."""
    return (_resampled if count * draws <= KEPT else _resampled.__wrapped__)(count, draws, seed)


@lru_cache(maxsize=4)
def _resampled(count: int, draws: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(count, size=(draws, count))
    drawn.flags.writeable = False
    return drawn


def estimate_share(groups: Sequence[Sequence[float]], draws: int, seed: int, level: float = 0.95) -> Estimate:
    """Return the mean over all numbers, with a percentile bootstrap interval over prompts.

    Unlike in `estimate`, a prompt weighs as much as it has numbers.

    Raises:
        ValueError: all groups are empty.
    """
    return estimate_ratio([sum(group) for group in groups], [len(group) for group in groups], draws, seed, level)


def estimate_ratio(totals: Numbers, sizes: Numbers, draws: int, seed: int, level: float = 0.95) -> Estimate:
    """Return Σ totals / Σ sizes, both (B,), with a percentile bootstrap interval over prompts or texts.

    Raises:
        ValueError: all sizes are 0.
    """
    values, counts = np.array(totals, dtype=float), np.array(sizes)
    if not counts.sum():
        raise ValueError("an estimate needs at least one number")
    drawn = resampled(len(values), draws, seed)
    found = values[drawn].sum(axis=1) / np.maximum(counts[drawn].sum(axis=1), 1)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(values.sum() / counts.sum()), float(low), float(high))


def wins(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return 1 if ours scores higher, 0 if theirs does, ½ for a tie, for each pair of one score of each side."""
    return [float(a > b) + 0.5 * float(a == b) for a in ours for b in theirs]


def win_rate(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], draws: int, seed: int) -> Estimate:
    """Return P(ours scores higher) + ½ P(tie) for a sample of each side on the same prompt. Both sides are (B, K).

    Each sample is compared with each sample of the other side (the Mann-Whitney U statistic over its maximum): K²
    comparisons instead of K, so the variance is lower. The bootstrap draws both sides of a prompt together.

    Raises:
        ValueError: the two sides have different numbers of prompts, or a prompt has no score.
    """
    return estimate([wins(a, b) for a, b in zip(ours, theirs, strict=True)], draws, seed)


def distinct(texts: Sequence[str], n: int) -> float:
    """Return distinct word n-grams as a share of all, Li et al. 2016, https://arxiv.org/abs/1510.03055; 0 if none."""
    grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


@lru_cache(maxsize=2**15)
def normalized(text: str) -> str:
    """Return the lower-case words of a text without punctuation, to compare responses by."""
    return " ".join("".join(char if char.isalnum() else " " for char in text.lower()).split())


def agreement(texts: Sequence[str]) -> float:
    """Return the share of pairs of texts that are equal after `normalized`; 1 for a single text."""
    pairs = list(combinations(map(normalized, texts), 2))
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else 1.0


def agreement_between(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """Return the share of pairs of one text of each side that are equal after `normalized`."""
    right = [normalized(text) for text in theirs]
    return float(np.mean([normalized(text) == against for text in ours for against in right]))


def perplexity(nats: float, tokens: int) -> float:
    """Return exp(Σ -log p / tokens); comparable only between models with the same tokenizer."""
    return math.exp(nats / tokens)


def bits_per_byte(nats: float, size: int) -> float:
    """Return Σ -log₂ p of a text over its ``size`` in bytes; comparable between tokenizers."""
    return nats / (size * math.log(2))
