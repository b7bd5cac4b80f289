"""Calibration of the probability of an answer, and of a reward model's confidence in its order of a pair."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from rlhf.evaluation.statistics.metrics import Numbers, normalized

BINS = 10
HOTTEST = 1e4  # the scores carry no information at a fitted temperature above this
SIMULATIONS = 200  # draws of a calibrated model, for the noise floor


class Bin(NamedTuple):
    """Predictions of similar confidence: their mean confidence, the share that is right, and their number."""

    confidence: float
    accuracy: float
    count: int


class Calibration(NamedTuple):
    """``error`` is the ECE, ``floor`` the expected ECE of a calibrated model on as many predictions."""

    bins: list[Bin]
    error: float
    floor: float


def calibration(confidence: Numbers, right: Numbers, bins: int = BINS, *, low: float = 0.0, seed: int) -> Calibration:
    """Return how well ``confidence`` (n,) in [low, 1] predicts ``right`` (n,), with the noise floor of the error.

    A calibrated model has an ECE above 0, too, since the accuracy in a bin is random. The floor is the mean ECE of
    `SIMULATIONS` draws in which each prediction is right with its confidence.
    """
    found = reliability(confidence, right, bins, low=low)
    generator = np.random.default_rng(seed)
    errors = [
        calibration_error(reliability(confidence, generator.random(len(confidence)) < confidence, bins, low=low))
        for _ in range(SIMULATIONS)
    ]
    return Calibration(found, calibration_error(found), float(np.mean(errors)))


def reliability(confidence: Numbers, right: Numbers, bins: int = BINS, *, low: float = 0.0) -> list[Bin]:
    """Return the non-empty bins of ``confidence`` (n,), of ``bins`` equal parts of [low, 1].

    Raises:
        ValueError: a confidence is not in [0, 1].
    """
    p, y = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    if len(wrong := p[~((p >= 0) & (p <= 1))]):
        raise ValueError(f"a probability lies in [0, 1], got {wrong[0]}")
    part = np.minimum(((p - low) / (1 - low) * bins).astype(int), bins - 1)
    return [
        Bin(float(p[part == i].mean()), float(y[part == i].mean()), int((part == i).sum())) for i in np.unique(part)
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the ECE, Σ share of the bin · |accuracy - confidence|: Guo et al. 2017, eq. 3, arXiv:1706.04599."""
    total = sum(part.count for part in bins)
    return sum(part.count * abs(part.accuracy - part.confidence) for part in bins) / total


def of_pairs(differences: Numbers, bins: int, seed: int) -> Calibration:
    """Return the calibration of a reward model's confidence that the response with the higher score is better.

    ``differences`` (n,) are r(chosen) - r(rejected). The confidence is σ(|difference|), from ½ to 1; the model is right
    if the difference is positive and half right for a tie.
    """
    found = np.asarray(differences, dtype=float)
    return calibration(expit(np.abs(found)), (found > 0) + 0.5 * (found == 0), bins, low=0.5, seed=seed)


def answer_probabilities(texts: Sequence[str]) -> list[float]:
    """Return for each sample (K,) the share of the other samples that are equal after `normalized`.

    This estimates the policy's probability of an answer without the sample itself. Empty for a single sample.
    """
    words = [normalized(text) for text in texts]
    return [(words.count(text) - 1) / (len(words) - 1) for text in words] if len(words) > 1 else []


def log_loss(differences: Numbers, temperature: float = 1.0) -> float:
    """Return the mean of -log σ(difference / temperature), in nats per pair; log 2 for a random guess."""
    return float(np.logaddexp(0.0, -np.asarray(differences, dtype=float) / temperature).mean())


def fit_temperature(differences: Numbers) -> float | None:
    """Return the temperature that minimizes `log_loss`, Guo et al. 2017, section 4.2; above 1 for overconfidence.

    None if the loss has no minimum: every pair is ordered correctly, so it falls towards 0, or the scores do not
    separate chosen from rejected, so it falls towards infinity.
    """
    from scipy.optimize import brentq

    found = np.asarray(differences, dtype=float)
    if found.mean() <= 0 or found.min() >= 0:
        return None

    def slope(inverse: float) -> float:
        """Return d log_loss / d (1/T), which increases with 1/T."""
        return float(-(found * expit(-found * inverse)).mean())

    low, high = 1 / HOTTEST, 1.0
    if slope(low) >= 0:
        return None
    while slope(high) < 0:
        high *= 2
    return 1 / brentq(slope, low, high, xtol=1e-14)
