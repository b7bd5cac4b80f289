"""Calibration of answers: whether an answer is right as often as it is probable."""

from collections.abc import Sequence
from typing import NamedTuple

from rlhf.evaluation.statistics.metrics import normalized

BINS = 10


class Bin(NamedTuple):
    """Predictions of about one size: their mean, how often what they predict happened, and their number."""

    predicted: float
    happened: float
    count: int


def reliability(predicted: Sequence[float], happened: Sequence[float], bins: int = BINS) -> list[Bin]:
    """Predictions in ``bins`` parts of [0, 1] of equal width; those that are empty are left out.

    Raises:
        ValueError: a prediction is no probability.
    """
    parts: dict[int, list[tuple[float, float]]] = {}
    for p, y in zip(predicted, happened, strict=True):
        if not 0 <= p <= 1:
            raise ValueError(f"a probability lies in [0, 1], got {p}")
        parts.setdefault(min(int(p * bins), bins - 1), []).append((p, y))
    return [
        Bin(sum(p for p, _ in part) / len(part), sum(y for _, y in part) / len(part), len(part))
        for _, part in sorted(parts.items())
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Σ share of a bin · |predicted - happened|: the expected calibration error of Guo et al. 2017, eq. 3,
    https://arxiv.org/abs/1706.04599.
    """
    total = sum(part.count for part in bins)
    return sum(part.count * abs(part.predicted - part.happened) for part in bins) / total


def answer_probabilities(texts: Sequence[str]) -> list[float]:
    """The share of a prompt's other samples that say the same: the policy's probability of an answer, estimated
    without the sample itself. Of a single sample there is none.
    """
    said = [normalized(text) for text in texts]
    return [(said.count(text) - 1) / (len(said) - 1) for text in said] if len(said) > 1 else []
