"""Printed commands: Hydra reads back the same values, and the shell the same words."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.cli.overrides import parsed
from rlhf.runs.commands import command, quoted, setting

TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1) | st.text(
    "a1.\\'\"[]{}$=,: _-+", min_size=1
)


@given(TEXTS)
def test_hydra_reads_a_quoted_text_as_it_was(text: str) -> None:
    assert parsed(setting("stage.run", text)).value() == text
    assert parsed(f"stage.run={quoted(text, always=True)}").value() == text


@pytest.mark.parametrize(
    "text", ["1_1_1", "1.10", "12e4567", "true", "NULL", "inf", "-nan", "7", ".5", "a b", "x,y", "[ipo]"]
)
def test_what_hydra_would_read_otherwise_is_quoted(text: str) -> None:
    assert quoted(text) == f"'{text}'"


@pytest.mark.parametrize(
    "text", ["checkpoints/almanac/sft", "stage.loss-sigmoid+ipo", "org/name@v1.0", "../x", "/a/b.jsonl"]
)
def test_plain_paths_are_left_as_they_are(text: str) -> None:
    assert quoted(text) == text


@given(TEXTS)
def test_the_shell_reads_the_same_words(text: str) -> None:
    item = setting("stage.policy", f"runs/{text}")
    words = shlex.split(command("dpo", [item, "stage=dpo"]))
    assert words[:4] == ["python", "-m", "rlhf", "stage=dpo"]
    assert words[4:] == [item]


def test_a_command_holds_no_secret() -> None:
    assert command("sft", ["a.token=x", "b=hf_abcdefghij"]) == "python -m rlhf stage=sft 'a.token=***' 'b=***'"
