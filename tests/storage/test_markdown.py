"""Tables whose cells are text, however hostile."""

import html
import re

import pytest

from rlhf.storage.markdown import cell, table
from tests.evaluation.making import HOSTILE


def test_a_table_by_hand() -> None:
    assert list(table(["a", "b|"], [["1", "x\ny"]])) == ["| a | b&#124; |", "| --- | --- |", "| 1 | x<br>y |"]
    assert list(table(["a"], [[1.5]], str)) == ["| a |", "| --- |", "| 1.5 |"]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_one_cell_of_text(text: str) -> None:
    found = cell(text)
    assert "\n" not in found
    assert "|" not in found
    assert not set(found.replace("<br>", "")) & set("<>`*[]\\\x1b\u202e\x00\r")
    assert not re.search(r"://|www\.|@", found)
    shown = html.unescape(found.replace("<br>", "\n"))
    assert shown == "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)
