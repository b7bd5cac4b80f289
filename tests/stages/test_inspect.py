import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import Settings
from rlhf.errors import DataError
from rlhf.runs.run import Run
from rlhf.stages import execute
from tests.data.test_load import FIXTURES, write


@pytest.fixture
def inspected(settings: Callable[..., Settings], tmp_path: Path) -> Callable[..., dict]:
    """What stage=inspect writes into data.json."""

    def of(*overrides: str) -> dict:
        execute(settings("inspect", "overwrite=true", *overrides), tmp_path / "inspect")
        return json.loads((tmp_path / "inspect" / "data.json").read_text(encoding="utf-8"))

    return of


def test_the_embedded_data(inspected: Callable[..., dict], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    found = inspected()
    names = [(one["kind"], one["split"], one["sheet"]["rows"]) for one in found["sheets"]]
    assert ("preferences", "train", 4813) in names
    assert ("prompts", "test", 216) in names
    assert found["leaks"]
    assert {one["count"] for one in found["leaks"]} == {0}
    report = (tmp_path / "inspect" / "report.md").read_text(encoding="utf-8")
    assert "| the longer response wins | 0.439 |" in report
    assert "10 rows, drawn at random" in report
    run = Run.open(tmp_path / "inspect")
    assert run.manifest["metrics"]["leaks"] == 0
    told = capsys.readouterr().out
    assert "does not exist" in told
    assert "No overlap between train and held-out prompts." in told


def test_tokens_are_counted_if_a_model_exists(chain: Path, inspected: Callable[..., dict], tmp_path: Path) -> None:
    found = inspected(f"stage.tokenizer={chain}/almanac/base", "stage.max_length=24", "stage.examples=2")
    sheets = {(one["kind"], one["split"]): one["sheet"] for one in found["sheets"]}
    sheet = sheets["preferences", "train"]
    assert sheet["unit"] == "tokens"
    assert 0 < sheet["filled"] < sheet["longer_rows"] <= sheet["rows"]
    assert sum(sheet["lengths"]["chosen"]["histogram"].values()) == sheet["rows"]
    assert "<|user|>" in (tmp_path / "inspect" / "report.md").read_text(encoding="utf-8")
    assert "<|user|>" not in json.dumps(found)  # only statistics
    assert Run.open(tmp_path / "inspect").manifest["parents"]["tokenizer"]["stage"] == "base"


@pytest.mark.parametrize(
    ("name", "kind", "rows"),
    [
        ("hh", "preferences", 9), ("kto", "preferences", 4), ("oasst", "preferences", 18), ("imdb", "text", None),
        ("messages", "demonstrations", None), ("prompts", "prompts", None),
    ],
)  # fmt: skip
def test_a_file_alone_will_do(inspected: Callable[..., dict], name: str, kind: str, rows: int | None) -> None:
    found = inspected(f"data.path={FIXTURES / name}.jsonl")
    [one] = found["sheets"]
    assert one["kind"] == kind
    assert rows in (None, one["sheet"]["rows"])


def test_thumbs_without_a_counterpart_are_shown_as_demonstrations(
    inspected: Callable[..., dict], tmp_path: Path
) -> None:
    rows = [{"prompt": f"Q{n}", "completion": "A", "label": n % 2 == 0} for n in range(8)]
    [one] = inspected(f"data.path={write(tmp_path / 'a.jsonl', rows)}")["sheets"]
    assert (one["kind"], one["sheet"]["read"], one["sheet"]["rows"]) == ("demonstrations", 8, 4)
    assert one["sheet"]["left_out"] == {"completions that are marked as bad": 4}
    assert one["sheet"]["singles"] == {"thumbs": {"desirable": 4, "undesirable": 4}}
    report = (tmp_path / "inspect" / "report.md").read_text(encoding="utf-8")
    assert "4 desirable, 4 undesirable" in report


def test_leaks_between_the_kinds_are_found(
    inspected: Callable[..., dict], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write(tmp_path / "d" / "train.jsonl", [{"prompt": f"Q{n}", "completion": "A"} for n in range(8)])
    write(tmp_path / "p" / "train.jsonl", [{"prompt": "else"}])
    write(tmp_path / "p" / "test.jsonl", [{"prompt": "Q1"}, {"prompt": "Q2"}, {"prompt": "R"}, {"prompt": "S"}])
    paths = [f"data.demonstrations.path={tmp_path / 'd'}", f"data.prompts.path={tmp_path / 'p'}"]
    found = inspected("data=local", "data.holdout=0.01", *paths)
    counts = {(one["train"], one["held_out"]): one["count"] for one in found["leaks"]}
    assert counts["demonstrations (train)", "prompts (test)"] in (1, 2)  # one of the prompts may be held out
    assert "of prompts (test) with a prompt of demonstrations (train)" in " ".join(capsys.readouterr().out.split())


def test_hostile_rows_are_shown_as_data(
    inspected: Callable[..., dict], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [{"prompt": f"[bold]\x1b[31m{n}", "chosen": "```\n# not a heading", "rejected": "no"} for n in range(4)]
    inspected(f"data.path={write(tmp_path / 'a.jsonl', rows)}")
    report = (tmp_path / "inspect" / "report.md").read_text(encoding="utf-8")
    assert "\x1b" not in report
    assert "````text\n" in report  # a fence that is longer than the one in the row
    told = capsys.readouterr().out
    assert "\x1b[31m" not in told
    assert "[bold]" in told


def test_nothing_to_inspect_and_a_row_of_no_kind_are_one_sentence(
    inspected: Callable[..., dict], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="there is nothing to inspect: set data.path=my.jsonl"):
        inspected("data=local")
    with pytest.raises(DataError, match=r"a\.jsonl:1: no format reads this row: its columns are x, y"):
        inspected(f"data.path={write(tmp_path / 'a.jsonl', [{'x': 1, 'y': 2}])}")


def test_packages_that_are_missing_are_named(inspected: Callable[..., dict], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rensa", None)
    monkeypatch.setitem(__import__("sys").modules, "py3langid", None)
    [one] = inspected(f"data.path={FIXTURES / 'hh.jsonl'}", "stage.examples=0")["sheets"]
    assert one["sheet"]["near_duplicates"] == one["sheet"]["languages"] == "not looked for: pip install 'rlhf[inspect]'"


def test_the_sheet_fits_into_80_columns_and_shows_what_is_wrong(
    inspected: Callable[..., dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    rows = [{"prompt": f"{n}?", "chosen": "a " * (n + 1), "rejected": "b", "id": n} for n in range(9)]
    rows += [{"prompt": "9?", "chosen": "b", "rejected": "b"}, {"prompt": "10?", "chosen": None, "rejected": "b"}]
    monkeypatch.setattr("rlhf.console.console.width", 80)
    [one] = inspected(f"data.path={write(tmp_path / 'a.jsonl', rows)}")["sheets"]
    assert (one["sheet"]["rows"], one["sheet"]["identical"]) == (10, 1)
    told = capsys.readouterr().out
    lines = told.splitlines()
    assert any(
        line.split("│")[1].strip() == "chosen = rejected" and "1 (10.0%)" in line for line in lines if "│" in line
    )
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
    bars = [line for line in lines if "█" in line]
    assert bars
    assert all("<" in line for line in bars)  # a bar stands beside its count
    assert "columns not read" in told
    assert "first row that cannot be read" in told
