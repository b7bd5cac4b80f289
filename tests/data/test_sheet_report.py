from typing import Any

import pytest

from rlhf.data.sheet_report import facts, histogram, markdown, show

LENGTHS = {"median": 3, "mean": 2.5, "p95": 7, "max": 1200, "histogram": {"1": 0, "2": 4, "4": 8}}


def sheet(**changes: Any) -> dict[str, Any]:
    return {
        "rows": 8, "read": 10, "layouts": {"standard": 8}, "left_out": {"with an empty completion": 2}, "problem": None,
        "oddities": {}, "prompts": 7, "duplicates": 1, "near_duplicates": None, "longer": 0.625, "identical": 0,
        "contradicting": 2, "empty": {"prompt": 0}, "truncated": {"chosen": 4}, "lengths": {"prompt": LENGTHS},
        "max_length": 1024, "special": 0, "longer_rows": 1, "filled": 0, "broken": 3, "unread": ["id", "\x1b[31mred"],
        "counted_by": "my/model", "languages": {"rows": 8, "counts": {"en": 6, "de": 2}}, "sources": {},
        "unit": "tokens", "singles": {},
    } | changes  # fmt: skip


def report(leaks: int = 0, **changes: Any) -> dict[str, Any]:
    one = {"kind": "preferences", "path": "a|b.jsonl", "split": "train", "sheet": sheet(**changes)}
    found = {"train": "a", "held_out": "b", "count": leaks, "share": leaks / 8}
    return {"notes": ["A note."], "sheets": [one | {"examples": [{"prompt": "```\nx"}]}], "leaks": [found]}


def test_facts_by_hand() -> None:
    found = dict(facts(sheet()))
    assert found["rows"] == "8 from 10 read"
    assert found["left out: an empty completion"] == "2"
    assert (found["exact duplicates"], found["chosen = rejected"], found["contradicting pairs"]) == (
        "1 (12.5%)", "0", "2 (25.0%)",
    )  # fmt: skip
    assert found["the longer response wins"] == "0.625"
    assert found["languages"] == "en 75.0%, de 25.0% of 8 rows looked at"
    assert found["longer than 1,024 tokens"] == "1 (12.5%)"
    assert found["tokens of"] == "my/model"
    assert "\x1b" not in found["columns not read"]


def test_the_responses_for_kto_are_shown_by_origin() -> None:
    counts = {
        "thumbs": {"desirable": 3, "undesirable": 1200},
        "ratings": {"desirable": 2, "undesirable": 1, "from": 2.5},
    }
    found = dict(facts(sheet(singles=counts)))
    assert found["thumbs, for stage=kto"] == "3 desirable, 1,200 undesirable"
    assert found["ratings, for stage=kto"] == "2 desirable, 1 undesirable (desirable from their mean 2.5 on)"


def test_plain_text_has_no_pairs_and_no_maximum() -> None:
    found = dict(facts(sheet(longer=None, lengths={"text": LENGTHS}, counted_by=None, unread=[])))
    assert not {"chosen = rejected", "longer than 1,024 tokens", "tokens of", "columns not read"} & set(found)


def test_the_longest_bar_is_of_the_fullest_bin() -> None:
    assert histogram(LENGTHS) == ["     < 1        0", f"     < 2        4 {'█' * 10}", f"     < 4        8 {'█' * 20}"]


def test_a_fence_is_longer_than_any_in_an_example_and_cells_stay_cells() -> None:
    text = markdown(report(problem="a|b"))
    assert "````text\n[prompt]\n```\nx\n````" in text
    assert "| first row that cannot be read | a&#124;b |" in text
    assert "| prompt | 3 | 2.5 | 7 | 1,200 |" in text
    assert "Longer than 1,024 tokens: stage=sft and stage=dpo cut the end" in text
    assert "| a | b | 0 | 0.0% |" in text


@pytest.mark.parametrize(
    ("leaks", "line"), [(0, "No overlap between train"), (2, "leak: 2 rows (25.0%) of b with a prompt of a")]
)
def test_the_terminal_shows_leaks(capsys: pytest.CaptureFixture, leaks: int, line: str) -> None:
    show(report(leaks))
    out = capsys.readouterr().out
    assert line in out
    assert "A note." in out
    assert "\x1b" not in out
