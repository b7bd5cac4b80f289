import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.ppo.diversity import distinct, repetition

ROWS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=5)


def test_repetition_by_hand() -> None:
    """1 2 1 2 1 2 has five bigrams, two of them distinct; 1 2 3 has two; a response of one token has none."""
    assert repetition([[1, 2, 1, 2, 1, 2]], n=2) == pytest.approx(3 / 5)
    assert repetition([[1, 2, 1, 2, 1, 2], [1, 2, 3], [7]], n=2) == pytest.approx(1 / 5)
    assert repetition([[5] * 10]) == pytest.approx(1 - 1 / 7)


def test_distinct_by_hand() -> None:
    assert distinct([[1, 2], [1, 2], [1], [3]]) == 3 / 4
    assert distinct([[1]] * 8) == 1 / 8


@given(ROWS)
def test_both_are_shares_and_do_not_depend_on_the_order(rows: list[list[int]]) -> None:
    for measure in (repetition, distinct):
        assert 0 <= measure(rows) <= 1
        assert measure(rows) == pytest.approx(measure(rows[::-1]))


@given(ROWS, st.integers(1, 4))
def test_tokens_that_all_differ_repeat_nothing(rows: list[list[int]], n: int) -> None:
    assert repetition([list(range(len(row))) for row in rows], n) == 0
