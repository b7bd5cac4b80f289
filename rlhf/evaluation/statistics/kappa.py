"""Agreement of a judge with the preferences of people, or of a gold reward, on held-out pairs."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf.evaluation.statistics.intervals import LEVEL
from rlhf.evaluation.statistics.metrics import Estimate


def kappa(one: Sequence[Any], other: Sequence[Any]) -> float:
    """Return Cohen's kappa of two raters of the same items.

        κ = (p_o - p_e) / (1 - p_e)

    p_e is the expected agreement of raters who answer at random with their own frequencies (Cohen 1960). It is 1 if
    both always give the same answer.
    """
    size = len(one)
    observed = sum(a == b for a, b in zip(one, other, strict=True)) / size
    left, right = Counter(one), Counter(other)
    expected = sum(left[answer] * right[answer] for answer in left) / size**2
    return 1.0 if expected == 1 else (observed - expected) / (1 - expected)


class Agreement(NamedTuple):
    """Cohen's kappa with its 95 % interval; ``right`` and ``ties`` are shares of the ``pairs`` with a verdict."""

    kappa: Estimate
    right: float
    ties: float
    pairs: int
    unusable: int

    def __str__(self) -> str:
        more = f", {self.unusable} more without a verdict" if self.unusable else ""
        return (
            f"Cohen's kappa {self.kappa} with the preferences of {self.pairs} held-out pairs, {self.right:.3f} of the "
            f"verdicts equal, {self.ties:.3f} ties{more}"
        )

    def metrics(self, prefix: str) -> dict[str, float]:
        """Return the numbers as metrics."""
        found = {"kappa": self.kappa.mean, "kappa_low": self.kappa.low, "kappa_high": self.kappa.high}
        found |= {"right": self.right, "ties": self.ties, "pairs": self.pairs, "unusable": self.unusable}
        return {f"{prefix}{name}": float(value) for name, value in found.items()}


def agreement(preferred: Sequence[float | None], groups: Sequence[Any], draws: int, seed: int) -> Agreement | None:
    """Return the agreement with people who prefer the first response of each pair; None without a verdict.

    ``preferred`` (n,) is the judge's preference for the first responses: ½ is a tie, None is left out. Kappa is that of
    the table in which each pair occurs in both orders, so that people choose either place in half of the pairs:

        κ = (p - e) / (1 - e),   e = (1 - t) / 2

    with p the share of equal verdicts and t that of ties. Without ties it is 2p - 1. The interval is a percentile
    bootstrap over ``groups`` (n,), the prompts.
    """
    kept = [(value, str(group)) for value, group in zip(preferred, groups, strict=True) if value is not None]
    if not kept:
        return None
    values = np.array([value for value, _ in kept])
    of = np.unique([group for _, group in kept], return_inverse=True)[1]
    sums = [np.bincount(of, weights=part) for part in (values > 0.5, values == 0.5, np.ones(len(values)))]
    drawn = np.random.default_rng(seed).integers(len(sums[0]), size=(draws, len(sums[0])))
    low, high = np.quantile(_kappa(*(part[drawn].sum(axis=1) for part in sums)), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    right, ties, count = (float(part.sum()) for part in sums)
    found = Estimate(float(_kappa(*(np.array(part.sum()) for part in sums))), float(low), float(high))
    return Agreement(found, right / count, ties / count, len(kept), len(preferred) - len(kept))


def _kappa(right: np.ndarray, ties: np.ndarray, count: np.ndarray) -> np.ndarray:
    expected = (1 - ties / count) / 2
    return (right / count - expected) / (1 - expected)
