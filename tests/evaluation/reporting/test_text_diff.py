"""The words that are marked as different."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.evaluation.reporting.text_diff import MOST_WORDS, pieces

TEXTS = st.text(alphabet="ab \n\t.", max_size=30)


@pytest.mark.parametrize(
    ("text", "against", "expected"),
    [
        ("", "a", [""]),
        ("a b", "a b", ["a b"]),
        ("a b", "", ["", "a b"]),
        ("the red cat", "the cat", ["the ", "red", " cat"]),
        ("a new red cat", "a cat", ["a ", "new red", " cat"]),
        ("  x\n", "y", ["  ", "x", "\n"]),
        ("a  b", "a b", ["a  b"]),  # blanks are not compared
    ],
)
def test_pieces_by_hand(text: str, against: str, expected: list[str]) -> None:
    assert pieces(text, against) == expected


@given(TEXTS, TEXTS)
def test_joined_the_pieces_are_the_text(text: str, against: str) -> None:
    found = pieces(text, against)
    assert "".join(found) == text
    assert all(found[1:])
    assert set("".join(found[::2]).split()) <= set(against.split())


@given(TEXTS)
def test_a_text_does_not_differ_from_itself(text: str) -> None:
    assert pieces(text, text) == [text]


def test_long_texts_are_compared_at_both_ends() -> None:
    words = [f"w{i}" for i in range(2 * MOST_WORDS)]
    other = [*words[:10], "x", *words[11:]]
    assert pieces(" ".join(words), " ".join(other))[1] == "w10"
    shifted = pieces(" ".join(words), " ".join([*words[:5], *words[7:]]))
    assert "".join(shifted[1::2]) == "w5 w6"
