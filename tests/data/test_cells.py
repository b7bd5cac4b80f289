"""Cells with conversations as text, and the columns of a row that were read."""

import json

import pytest

from rlhf.data.cells import Cells, unfolded
from rlhf.data.rows import RowError

TALK = [{"role": "user", "content": 'It\'s "q"'}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize("write", [json.dumps, repr])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("prompt", TALK),
        ("chosen", [{"from": "human", "value": "q"}]),
        ("rejected", {"from": "gpt", "value": "a"}),
        ("responses", ["a", "b"]),
        ("scores", [1, 2.5]),
        ("history", [["q", "a"]]),
        ("input", {"messages": TALK}),
    ],
)
def test_a_conversation_or_list_stored_as_text_is_parsed(write: type, column: str, value: object) -> None:
    assert unfolded({column: write(value)}) == {column: value}


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("completion", "[1, 2, 3]"),
        ("completion", '{"role": "manager", "content": "x"}'),
        ("completion", '[{"name": "x"}]'),
        ("completion", '{"model": "m", "messages": [{"role": "user", "content": "q"}]} is a request'),
        ("history", "[Serious] What happened?"),
        ("prompt", "[INST] q [/INST]"),
        ("input", '{"a": 1}'),
    ],
)
def test_text_that_only_looks_like_a_conversation_stays_text(column: str, text: str) -> None:
    assert unfolded({column: text}) == {column: text}


@pytest.mark.parametrize(
    "text",
    [
        "[{'role': 'user', 'content': 'q'}\n {'role': 'assistant', 'content': 'a'}]",  # as NumPy prints an array
        "array([{'role': 'user', 'content': 'q'}], dtype=object)",
        json.dumps(TALK)[:-5],  # cut by a spreadsheet
        "[{'role': 'user', 'content': open('x')}]",
    ],
)
def test_a_conversation_that_cannot_be_parsed_is_refused(text: str) -> None:
    with pytest.raises(RowError, match="field 'prompt' looks like a conversation and is neither JSON nor a Python"):
        unfolded({"prompt": text})


def test_a_row_records_its_unread_columns() -> None:
    row = Cells({"a": 1, "b": 2, "c": None, "d": 3})
    assert (row["a"], row.get("b"), row.get("x")) == (1, 2, None)
    assert row.unread() == ["d"]
