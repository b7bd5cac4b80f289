"""Confidence intervals of a share of pairs, and of the difference of two such shares.

Pairs that share a prompt are not independent, so the prompt is the sampling unit of both intervals.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from rlhf.evaluation.statistics.metrics import Estimate, Numbers

LEVEL = 0.95


class Share(NamedTuple):
    """A mean of ``count`` numbers in [0, 1] with the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def share(values: Numbers, groups: Sequence[Any] | None = None) -> Share:
    """Return the mean with Wilson's score interval (Wilson 1927), which stays in [0, 1] and is valid for few values.

        (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)

    ``groups`` (n,) holds the prompt of each value. n is then divided by the design effect (Kish 1965): the variance of
    p between groups over that of as many independent values, if it is above 1. The interval is conservative for values
    between 0 and 1, such as ½ for a tie.

    Raises:
        ValueError: there is no value.
    """
    if not len(values):
        raise ValueError("a share needs at least one value")
    found = np.asarray(values, dtype=float)
    p, n = float(found.mean()), len(found) / design_effect(found, groups)
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    center, scale = p + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Share(p, max((center - half) / scale, 0.0), min((center + half) / scale, 1.0), len(found))


def design_effect(values: np.ndarray, groups: Sequence[Any] | None) -> float:
    """Return the variance of the mean of grouped values over that of independent ones, at least 1.

    If all values are equal, it is the mean size of a group.
    """
    if groups is None:
        return 1.0
    of = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)[1]
    sizes = np.bincount(of)
    deviations = np.bincount(of, weights=values - values.mean())
    independent = float(((values - values.mean()) ** 2).sum())
    if independent == 0:
        return len(values) / len(sizes)
    return max(float((deviations**2).sum()) / independent, 1.0)


def lead(ours: Numbers, theirs: Numbers, groups: Sequence[Any], draws: int, seed: int) -> Estimate:
    """Return the mean of ``ours`` - ``theirs`` with a percentile bootstrap interval over groups. All are (n,).

    Both are measured on the same pairs, so the difficulty of a pair cancels and the interval is narrower than for two
    separate shares. Whole groups are drawn; each weighs as much as it has pairs.
    """
    of = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)[1]
    difference = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    sums, sizes = np.bincount(of, weights=difference), np.bincount(of)
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(draws):  # a loop, since all draws at once need memory for draws · groups numbers
        drawn = generator.integers(len(sizes), size=len(sizes))
        means.append(sums[drawn].sum() / sizes[drawn].sum())
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(difference.mean()), float(low), float(high))
