import math

import numpy as np
import pytest

from rlhf.evaluation.statistics.reward_calibration import calibration_error, fit_temperature, log_loss, reliability

SURE = math.log(9)  # σ = 0.9


def test_bins_by_hand() -> None:
    """Four pairs held for 0.9 likely, three of them right; one held for a coin, which a tie half wins."""
    bins = reliability([SURE, SURE, SURE, -SURE, 0.0], bins=5)
    assert [tuple(part) for part in bins] == [
        (0.5, 0.5, 1),
        (pytest.approx(0.9), 0.75, 4),
    ]
    assert calibration_error(bins) == pytest.approx(4 / 5 * 0.15)


def test_the_surest_pair_has_a_bin() -> None:
    [part] = reliability([1000.0], bins=10)
    assert part == (1.0, 1.0, 1)


def test_log_loss_by_hand() -> None:
    assert log_loss([0.0]) == pytest.approx(math.log(2))
    assert log_loss([SURE, -SURE]) == pytest.approx((-math.log(0.9) - math.log(0.1)) / 2)
    assert log_loss([2 * SURE], temperature=2.0) == pytest.approx(-math.log(0.9))


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_the_temperature_of_too_loud_scores_is_found(temperature: float) -> None:
    """Of pairs with σ(difference / T) = 0.9 nine of ten are right where the scores are T times too large."""
    differences = [temperature * SURE] * 90 + [-temperature * SURE] * 10
    assert fit_temperature(differences) == pytest.approx(temperature, rel=1e-6)


def test_the_fitted_temperature_has_the_smallest_loss() -> None:
    differences = np.random.default_rng(0).normal(0.7, 2.0, 400)
    best = fit_temperature(differences)
    grid = np.geomspace(best / 5, best * 5, 401)
    losses = [log_loss(differences, temperature) for temperature in grid]
    assert grid[int(np.argmin(losses))] == pytest.approx(best, rel=0.02)


@pytest.mark.parametrize("differences", [[1.0, 2.0], [-1.0, -2.0], [1.0, -1.0], [0.0, 0.0]])
def test_where_no_temperature_is_best_there_is_none(differences: list[float]) -> None:
    assert fit_temperature(differences) is None
