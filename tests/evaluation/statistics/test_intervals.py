import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.evaluation.statistics.intervals import design_effect, lead, share


def test_wilson_by_hand() -> None:
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662, 0 of 20 gives 0 to 0.1611, 1 of 29 0.0061 to 0.1718."""
    for right, count, low, high in [(81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]:
        found = share([1.0] * right + [0.0] * (count - right))
        assert found == pytest.approx((right / count, low, high, count), abs=1e-4)


def test_equal_pairs_of_one_prompt_count_as_one() -> None:
    """Ten prompts with four equal pairs each have the interval of ten pairs."""
    values = [1.0] * 28 + [0.0] * 12
    prompts = [i // 4 for i in range(40)]
    grouped, ten = share(values, prompts), share([1.0] * 7 + [0.0] * 3)
    assert grouped[:3] == pytest.approx(ten[:3])
    assert grouped.count == 40
    alike = share([1.0] * 40, prompts)
    assert alike[:3] == pytest.approx(share([1.0] * 10)[:3])


def test_groups_of_one_change_nothing() -> None:
    values = [1.0, 0.0, 0.5, 1.0, 1.0]
    assert share(values, range(5)) == pytest.approx(share(values))
    assert design_effect(np.array([1.0, 0.0, 1.0, 0.0]), ["a", "a", "b", "b"]) == 1.0  # negatively correlated


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40), st.integers(1, 8))
def test_an_interval_contains_its_mean_and_stays_in_bounds(values: list[float], groups: int) -> None:
    found = share(values, [i % groups for i in range(len(values))])
    assert 0 <= found.low <= found.mean + 1e-12
    assert found.mean - 1e-12 <= found.high <= 1


def test_a_share_of_no_values_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        share([])


def test_a_lead_is_measured_pair_by_pair() -> None:
    """Ours is right on the same pairs and on 5 % more: better in almost every draw."""
    theirs = [1.0, 0.0] * 100
    ours = [1.0 if i % 20 == 1 else value for i, value in enumerate(theirs)]
    found = lead(ours, theirs, range(200), 2000, seed=0)
    assert found.mean == pytest.approx(0.05)
    assert 0.01 < found.low < 0.03 < 0.07 < found.high < 0.09
    assert lead(theirs, theirs, range(200), 100, seed=0) == (0, 0, 0)
    assert lead(ours, theirs, range(200), 2000, seed=0) == found


def test_a_lead_on_a_single_prompt_is_uncertain() -> None:
    ours, theirs = [1.0] * 10 + [0.0] * 10, [0.0] * 10 + [0.0] * 10
    prompts = [i // 10 for i in range(20)]
    assert lead(ours, theirs, prompts, 500, seed=0)[1:] == (0.0, 1.0)
