"""Calibration: how often an answer, or a reward model's order of a pair, is right at a given probability."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from rlhf.evaluation.statistics.metrics import normalized

BINS = 10
HOTTEST = 1e4  # temperatures above it say that the scores tell nothing
SIMULATIONS = 200  # of a calibrated model, for the noise floor


class Bin(NamedTuple):
    """Predictions of about one confidence: its mean, the share of them that is right, and how many they are."""

    confidence: float
    accuracy: float
    count: int


class Calibration(NamedTuple):
    """``error`` is the ECE; ``floor`` the ECE that a calibrated model would show on as many predictions, on average."""

    bins: list[Bin]
    error: float
    floor: float


def calibration(
    confidence: Sequence[float], right: Sequence[float], bins: int = BINS, *, low: float = 0.0, seed: int
) -> Calibration:
    """Return how well ``confidence`` (n,) in [low, 1] predicts ``right`` (n,), with the noise floor of the error.

    Even a calibrated model has an error above 0, since what happens in a bin is a draw. The floor is the mean error of
    `SIMULATIONS` draws in which each prediction is right with its own confidence.
    """
    found = reliability(confidence, right, bins, low=low)
    generator = np.random.default_rng(seed)
    errors = [
        calibration_error(reliability(confidence, generator.random(len(confidence)) < confidence, bins, low=low))
        for _ in range(SIMULATIONS)
    ]
    return Calibration(found, calibration_error(found), float(np.mean(errors)))


def reliability(
    confidence: Sequence[float], right: Sequence[float], bins: int = BINS, *, low: float = 0.0
) -> list[Bin]:
    """Return predictions in ``bins`` parts of [low, 1] of equal width; those that are empty are left out.

    Raises:
        ValueError: a prediction is no probability.
    """
    p, y = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    if len(wrong := p[~((p >= 0) & (p <= 1))]):
        raise ValueError(f"a probability lies in [0, 1], got {wrong[0]}")
    part = np.minimum(((p - low) / (1 - low) * bins).astype(int), bins - 1)
    return [
        Bin(float(p[part == i].mean()), float(y[part == i].mean()), int((part == i).sum())) for i in np.unique(part)
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return Σ share of a bin · |accuracy - confidence|: ECE, Guo et al. 2017, eq. 3, https://arxiv.org/abs/1706.04599."""
    total = sum(part.count for part in bins)
    return sum(part.count * abs(part.accuracy - part.confidence) for part in bins) / total


def of_pairs(differences: Sequence[float], bins: int, seed: int) -> Calibration:
    """Return the calibration of a reward model by the confidence in the response that scores higher.

    ``differences`` are r(chosen) - r(rejected); the confidence is σ(|difference|), from ½ to 1, and the model is right
    where the difference is positive. A tie is half right.
    """
    found = np.asarray(differences, dtype=float)
    return calibration(expit(np.abs(found)), (found > 0) + 0.5 * (found == 0), bins, low=0.5, seed=seed)


def answer_probabilities(texts: Sequence[str]) -> list[float]:
    """Return the share of a prompt's other samples that say the same: the policy's probability of an answer, estimated
    without the sample itself. Empty for a single sample.
    """
    said = [normalized(text) for text in texts]
    return [(said.count(text) - 1) / (len(said) - 1) for text in said] if len(said) > 1 else []


def log_loss(differences: Sequence[float], temperature: float = 1.0) -> float:
    """Return the mean of -log σ(difference / temperature), in nats per pair; a coin's is log 2."""
    return float(np.logaddexp(0.0, -np.asarray(differences, dtype=float) / temperature).mean())


def fit_temperature(differences: Sequence[float]) -> float | None:
    """Return the T that makes `log_loss` smallest, Guo et al. 2017, section 4.2: above 1 the model is too sure.

    None if there is none: no pair is wrong, so that the smaller the better, or the scores do not tell chosen from
    rejected at all, so that the larger the better.
    """
    from scipy.optimize import brentq

    found = np.asarray(differences, dtype=float)
    if found.mean() <= 0 or found.min() >= 0:
        return None

    def slope(inverse: float) -> float:
        """d log_loss / d (1/T), which grows with 1/T."""
        return float(-(found * expit(-found * inverse)).mean())

    low, high = 1 / HOTTEST, 1.0
    if slope(low) >= 0:
        return None
    while slope(high) < 0:
        high *= 2
    return 1 / brentq(slope, low, high, xtol=1e-14)
