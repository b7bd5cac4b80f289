"""How far a share of pairs, and the difference of two such shares, can be trusted.

Pairs that share a prompt are not independent; both intervals take the prompt for the unit that was drawn.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from rlhf.evaluation.statistics.metrics import Estimate

LEVEL = 0.95


class Share(NamedTuple):
    """A mean of numbers in [0, 1] with the bounds of its 95 % interval, and how many numbers there were."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def share(values: Sequence[float], groups: Sequence[Any] | None = None) -> Share:
    """Mean with Wilson's score interval (Wilson 1927), which keeps inside [0, 1] and does not collapse in small bins.

        p ± z √(p(1-p)/n + z²/4n²), around (p + z²/2n) and over 1 + z²/n

    ``groups`` names what values have in common, a prompt. n is then the number of values over the design effect of
    groups (Kish 1965): the variance of p between groups over that of as many independent values, where it is above 1.
    Values between 0 and 1, such as a tie's half, vary less than the interval takes for granted.

    Raises:
        ValueError: there is no value.
    """
    if not len(values):
        raise ValueError("a share needs at least one value")
    found = np.asarray(values, dtype=float)
    p, n = float(found.mean()), len(found) / design_effect(found, groups)
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    centre, scale = p + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Share(p, max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0), len(found))


def design_effect(values: np.ndarray, groups: Sequence[Any] | None) -> float:
    """Variance of the mean of grouped values over that of independent ones, at least 1; sizes alone where all agree."""
    if groups is None:
        return 1.0
    of = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)[1]
    sizes = np.bincount(of)
    deviations = np.bincount(of, weights=values - values.mean())
    alone = float(((values - values.mean()) ** 2).sum())
    if alone == 0:
        return len(values) / len(sizes)
    return max(float((deviations**2).sum()) / alone, 1.0)


def lead(ours: Sequence[float], theirs: Sequence[float], groups: Sequence[Any], draws: int, seed: int) -> Estimate:
    """Mean of ours - theirs, pair by pair, with a percentile bootstrap interval over groups.

    The two are measured on the same pairs, so that what makes a pair hard cancels: the difference is known better than
    either share. Whole groups are drawn, and weigh as many pairs as they hold.
    """
    of = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)[1]
    difference = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    sums, sizes = np.bincount(of, weights=difference), np.bincount(of)
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(draws):  # one at a time: all at once would need draws x groups numbers
        drawn = generator.integers(len(sizes), size=len(sizes))
        means.append(sums[drawn].sum() / sizes[drawn].sum())
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(difference.mean()), float(low), float(high))
