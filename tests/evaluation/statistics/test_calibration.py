"""Calibration by hand, and its invariants."""

import math

import numpy as np
import pytest

from rlhf.evaluation.statistics.calibration import (
    Bin,
    answer_probabilities,
    calibration,
    calibration_error,
    fit_temperature,
    log_loss,
    of_pairs,
    reliability,
)

SURE = math.log(9)  # σ = 0.9


def test_bins_by_hand() -> None:
    found = reliability([0.05, 0.1, 0.15, 1.0], [0.0, 1.0, 0.0, 1.0])
    assert found == [Bin(0.05, 0.0, 1), Bin(pytest.approx(0.125), 0.5, 2), Bin(1.0, 1.0, 1)]
    assert calibration_error(found) == pytest.approx((0.05 + 2 * 0.375 + 0.0) / 4)


def test_a_confidence_equal_to_the_accuracy_has_no_error() -> None:
    assert calibration_error(reliability([0.25] * 4 + [0.75] * 4, [1, 0, 0, 0, 1, 1, 1, 0])) == 0
    assert calibration_error(reliability([1.0, 1.0], [0, 0])) == 1.0


def test_a_confidence_above_one_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\], got 1.5"):
        reliability([1.5], [1.0])


def test_the_probability_of_an_answer_is_its_share_of_the_other_samples() -> None:
    assert answer_probabilities(["Lima.", "lima", "Quito", "LIMA!"]) == pytest.approx([2 / 3, 2 / 3, 0, 2 / 3])
    assert answer_probabilities(["Lima"]) == []


def test_the_noise_floor_is_the_error_of_a_calibrated_model() -> None:
    """One prediction of ½ has an error of ½, right or wrong; for many predictions the error falls with their number."""
    assert calibration([0.5], [1.0], seed=0).floor == 0.5
    draw = np.random.default_rng(1)
    floors = []
    for count in (50, 5000):
        confidence = draw.uniform(size=count)
        found = calibration(confidence, draw.uniform(size=count) < confidence, seed=0)
        assert found.error == pytest.approx(found.floor, rel=0.6)
        floors.append(found.floor)
    assert floors[0] > 5 * floors[1]
    assert calibration([0.0, 1.0], [0, 1], seed=0).floor == 0.0
    assert calibration(confidence, confidence, seed=3) == calibration(confidence, confidence, seed=3)


def test_bins_of_pairs_by_hand() -> None:
    """Four pairs with a confidence of 0.9, three of them right; and a tie, which has a confidence of ½ and counts ½."""
    bins, error, _ = of_pairs([SURE, SURE, SURE, -SURE, 0.0], bins=5, seed=0)
    assert [tuple(part) for part in bins] == [
        (0.5, 0.5, 1),
        (pytest.approx(0.9), 0.75, 4),
    ]
    assert error == calibration_error(bins) == pytest.approx(4 / 5 * 0.15)


def test_the_surest_pair_has_a_bin() -> None:
    [part] = of_pairs([1000.0], bins=10, seed=0).bins
    assert part == (1.0, 1.0, 1)


def test_log_loss_by_hand() -> None:
    assert log_loss([0.0]) == pytest.approx(math.log(2))
    assert log_loss([SURE, -SURE]) == pytest.approx((-math.log(0.9) - math.log(0.1)) / 2)
    assert log_loss([2 * SURE], temperature=2.0) == pytest.approx(-math.log(0.9))


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_the_temperature_of_overconfident_scores_is_recovered(temperature: float) -> None:
    """Scores are T times too large: nine of ten pairs with σ(difference / T) = 0.9 are right."""
    differences = [temperature * SURE] * 90 + [-temperature * SURE] * 10
    assert fit_temperature(differences) == pytest.approx(temperature, rel=1e-6)


def test_the_fitted_temperature_has_the_smallest_loss() -> None:
    differences = np.random.default_rng(0).normal(0.7, 2.0, 400)
    best = fit_temperature(differences)
    grid = np.geomspace(best / 5, best * 5, 401)
    losses = [log_loss(differences, temperature) for temperature in grid]
    assert grid[int(np.argmin(losses))] == pytest.approx(best, rel=0.02)


@pytest.mark.parametrize("differences", [[1.0, 2.0], [-1.0, -2.0], [1.0, -1.0], [0.0, 0.0]])
def test_there_is_no_temperature_if_the_loss_has_no_minimum(differences: list[float]) -> None:
    assert fit_temperature(differences) is None
