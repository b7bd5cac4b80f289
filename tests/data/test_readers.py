"""Layouts of one row; tests of all layouts are in test_formats.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.readers import OPENING_WORDS, demonstration, opening, read_alpaca, read_standard
from rlhf.data.rows import RowError

USER, ASSISTANT = {"role": "user", "content": "?"}, {"role": "assistant", "content": "."}


@given(st.text())
def test_an_opening_and_the_rest_are_the_text(text: str) -> None:
    head, rest = opening(text)
    assert head + rest == text
    assert len(head.split()) <= OPENING_WORDS[1]
    assert len(head.split()) >= min(OPENING_WORDS[0], len(text.split()))
    assert opening(text) == (head, rest)


def test_the_last_turn_of_the_assistant_is_the_completion() -> None:
    assert demonstration([USER, ASSISTANT]) == {"prompt": [USER], "completion": [ASSISTANT]}
    assert demonstration([USER, ASSISTANT, USER]) == {"prompt": [USER, ASSISTANT, USER]}


def test_the_completion_of_a_text_is_the_rest_after_its_prompt() -> None:
    assert read_standard({"prompt": "one two", "text": "one two three"})["completion"] == " three"


def test_a_list_of_outputs_is_a_pair() -> None:
    row = read_alpaca({"instruction": "?", "output": ["good", "bad"]})
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("good", "bad")
    with pytest.raises(RowError, match="the good and the bad one, got 3 texts"):
        read_alpaca({"instruction": "?", "output": ["a", "b", "c"]})
