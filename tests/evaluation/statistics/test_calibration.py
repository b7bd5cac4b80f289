"""Reliability by hand, and its invariants."""

import pytest

from rlhf.evaluation.statistics.calibration import Bin, answer_probabilities, calibration_error, reliability


def test_bins_by_hand() -> None:
    found = reliability([0.05, 0.1, 0.15, 1.0], [0.0, 1.0, 0.0, 1.0])
    assert found == [Bin(0.05, 0.0, 1), Bin(pytest.approx(0.125), 0.5, 2), Bin(1.0, 1.0, 1)]
    assert calibration_error(found) == pytest.approx((0.05 + 2 * 0.375 + 0.0) / 4)


def test_whoever_is_as_sure_as_right_has_no_error() -> None:
    assert calibration_error(reliability([0.25] * 4 + [0.75] * 4, [1, 0, 0, 0, 1, 1, 1, 0])) == 0
    assert calibration_error(reliability([1.0, 1.0], [0, 0])) == 1.0


def test_no_probability() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\], got 1.5"):
        reliability([1.5], [1.0])


def test_an_answer_is_as_probable_as_the_others_say_it() -> None:
    assert answer_probabilities(["Lima.", "lima", "Quito", "LIMA!"]) == pytest.approx([2 / 3, 2 / 3, 0, 2 / 3])
    assert answer_probabilities(["Lima"]) == []
