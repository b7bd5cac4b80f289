"""Whether a reward model is right as often as its score differences say."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

HOTTEST = 1e4  # temperatures above it say that the scores tell nothing


class Bin(NamedTuple):
    """Pairs of about one confidence: its mean, the share of them that is right, and how many they are."""

    confidence: float
    accuracy: float
    count: int


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -x))


def reliability(differences: Sequence[float], bins: int) -> list[Bin]:
    """Pairs in ``bins`` parts of equal width by the confidence in the response that scores higher; empty ones left out.

    ``differences`` are r(chosen) - r(rejected); the confidence is σ(|difference|), from ½ to 1, and the model is right
    where the difference is positive. A tie is half right.
    """
    found = np.asarray(differences, dtype=float)
    confidence, right = sigmoid(np.abs(found)), (found > 0) + 0.5 * (found == 0)
    part = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    return [
        Bin(float(confidence[part == i].mean()), float(right[part == i].mean()), int((part == i).sum()))
        for i in range(bins)
        if (part == i).any()
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Σ share of a bin · |accuracy - confidence|: ECE, Guo et al. 2017, eq. 3, https://arxiv.org/abs/1706.04599."""
    total = sum(part.count for part in bins)
    return sum(part.count * abs(part.accuracy - part.confidence) for part in bins) / total


def log_loss(differences: Sequence[float], temperature: float = 1.0) -> float:
    """Mean of -log σ(difference / temperature), in nats a pair; a coin's is log 2."""
    return float(np.logaddexp(0.0, -np.asarray(differences, dtype=float) / temperature).mean())


def fit_temperature(differences: Sequence[float]) -> float | None:
    """The T that makes `log_loss` smallest, Guo et al. 2017, section 4.2: above 1 the model is too sure of itself.

    None where there is none: no pair is wrong, so that the smaller the better, or the scores do not tell chosen from
    rejected at all, so that the larger the better.
    """
    found = np.asarray(differences, dtype=float)
    if found.mean() <= 0 or found.min() >= 0:
        return None

    def slope(inverse: float) -> float:
        """d log_loss / d (1/T), which grows with 1/T."""
        return float(-(found * sigmoid(-found * inverse)).mean())

    low, high = 1 / HOTTEST, 1.0
    if slope(low) >= 0:
        return None
    while slope(high) < 0:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) >= 0 else (middle, high)
    return 1 / high
