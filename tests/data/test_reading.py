from pathlib import Path

import pytest

from rlhf.config import Source
from rlhf.data import reading
from rlhf.data.reading import NoRowsError, Table
from rlhf.errors import DataError
from tests.data.test_load import PAIRING, source, write

PAIRS = [{"prompt": "1", "chosen": "a", "rejected": "b", "id": 7}, {"prompt": "2", "chosen": "a", "rejected": "a"}]

TALKS = {
    "prompt": [{"role": "user", "content": "2"}],
    "chosen": [{"role": "assistant", "content": "a"}],
    "rejected": [{"role": "assistant", "content": "b"}],
}


@pytest.fixture(autouse=True)
def _nothing_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "announced", set())


def read(given: Source, folder: Path, kind: str = "preferences", **options: bool) -> Table:
    return reading.read(given, kind, "train", pairing=PAIRING, folder=str(folder), **{"tell": False} | options)


def test_counts_by_hand(tmp_path: Path) -> None:
    given = source(write(tmp_path / "rows.jsonl", [*PAIRS, {"prompt": "3", "chosen": "a"}]))
    rows, told = read(given, tmp_path / "cache", strict=False)
    assert rows["prompt"][:] == ["1", "2"]  # equal responses are kept to be shown
    assert (told["read"], told["rows"], told["unread"]) == (3, 2, ["id"])
    assert told["layouts"] == {"standard": 3}
    assert told["left_out"] == {"rows that cannot be read": 1}
    assert told["problem"].startswith(f"{tmp_path}/rows.jsonl:3: field 'rejected' is missing")


def test_training_refuses_what_the_data_sheet_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", PAIRS)
    with pytest.raises(DataError, match=r"rows.jsonl:2: chosen and rejected are the same, which teaches nothing"):
        read(source(path), tmp_path / "cache")
    rows, told = read(source(path, drop_identical=True), tmp_path / "cache")
    assert rows["prompt"][:] == ["1"]
    assert told["left_out"] == {"with chosen and rejected the same": 1}


def test_rows_are_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = source(write(tmp_path / "rows.jsonl", PAIRS[:1]))
    first = read(given, tmp_path / "cache")
    monkeypatch.setattr(reading, "convert", None)
    second = read(given, tmp_path / "cache")
    assert second.rows[:] == first.rows[:]
    assert second.rows._fingerprint == first.rows._fingerprint


def test_a_line_is_printed_once_with_its_counts(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write(tmp_path / "rows.jsonl", PAIRS)
    for _ in range(2):
        read(source(path, drop_identical=True), tmp_path / "cache", tell=True)
    lines = " ".join(capsys.readouterr().out.split())
    assert lines.count("1 preferences from 2 rows (standard: it has prompt, chosen, rejected)") == 1
    assert "left out 1 with chosen and rejected the same" in lines
    assert "not read: id" in lines


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (TALKS, "field 'prompt' is a conversation, in earlier rows it is text: make it the same"),
        ({"prompt": "2", "chosen": "a", "rejected": "b", "margin": 1.0}, "field 'margin' is a number, in earlier rows"),
    ],
)
def test_rows_of_two_types_are_refused(tmp_path: Path, second: dict, message: str) -> None:
    with pytest.raises(DataError, match=f"rows.jsonl:2: {message}"):
        read(source(write(tmp_path / "rows.jsonl", [PAIRS[0], second])), tmp_path / "cache")


def test_a_source_without_rows_of_the_kind_is_another_error(tmp_path: Path) -> None:
    given = source(write(tmp_path / "rows.jsonl", [{"prompt": "1", "completion": " "}]))
    with pytest.raises(NoRowsError, match="there is no row of demonstrations; left out 1 with an empty completion"):
        read(given, tmp_path / "cache", "demonstrations")
