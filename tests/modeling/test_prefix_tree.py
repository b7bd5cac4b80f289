import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.modeling.prefix_tree import Segment, common, tree

ROWS = st.lists(st.lists(st.integers(0, 2), max_size=14), min_size=1, max_size=7)


def vectors(*rows: list[int]) -> list[numpy.ndarray]:
    return [numpy.array(row, dtype=numpy.int64) for row in rows]


def test_worked_by_hand() -> None:
    """Two responses to one prompt, and a row with another beginning."""
    found = tree(vectors([1, 2, 3, 4, 5], [1, 2, 3, 6], [7, 8]), least=2)
    assert found.segments == [Segment(0, 0, 3, None), Segment(0, 3, 5, 0), Segment(1, 3, 4, 0), Segment(2, 0, 2, None)]
    assert found.paths == [(0, 1), (0, 2), (3,)]
    assert len(found) == 8


def test_a_prefix_that_is_too_short_is_computed_again() -> None:
    rows = vectors([1, 2, 3, 4], [1, 2, 5, 6])
    assert len(tree(rows, least=3)) == 8
    assert len(tree(rows, least=2)) == 6


@pytest.mark.parametrize(("one", "other", "count"), [([1, 2], [1, 3], 1), ([1, 2], [1, 2, 3], 2), ([], [1], 0)])
def test_common(one: list[int], other: list[int], count: int) -> None:
    assert common(*vectors(one, other)) == count


def test_equal_rows_and_several_pairs_on_one_prompt_are_computed_once() -> None:
    """Four ranked responses as six pairs: twelve rows, of which a prompt and four responses are different."""
    prompt, responses = list(range(20)), [[20 + i] * 5 for i in range(4)]
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    rows = [prompt + responses[i] for i, _ in pairs] + [prompt + responses[j] for _, j in pairs]
    assert len(tree(vectors(*rows))) == 20 + 4 * 5


@given(ROWS, st.integers(1, 5))
def test_every_row_is_its_path(rows: list[list[int]], least: int) -> None:
    given_rows = vectors(*rows)
    found = tree(given_rows, least)
    for row, path in zip(rows, found.paths, strict=True):
        segments = [found.segments[number] for number in path]
        assert [token for s in segments for token in given_rows[s.row][s.begin : s.end]] == row
        assert [s.parent for s in segments] == [None, *path[:-1]][: len(path)]
        assert [s.begin for s in segments] == [0, *(s.end for s in segments[:-1])][: len(path)]
    assert all(s.parent is None or s.parent < number for number, s in enumerate(found.segments))
    assert len(found) <= sum(map(len, rows))


@given(ROWS)
def test_with_the_least_length_of_one_no_token_is_computed_twice(rows: list[list[int]]) -> None:
    """The number of tokens is that of the nodes of a trie."""
    nodes = {tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)}
    assert len(tree(vectors(*rows), least=1)) == len(nodes)
