"""The data that stage=inspect shows."""

import json
from pathlib import Path

import pytest

from rlhf.config import Data
from rlhf.data import load
from rlhf.data.checks import survey
from rlhf.data.overview import all_leaks, tables
from rlhf.errors import DataError
from tests.conftest import composed


def data(tmp_path: Path, rows: list[dict], *overrides: str) -> Data:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return composed("stage=inspect", f"data.path={file}", f"data.cache={tmp_path}/cache", *overrides).data


def test_a_file_is_read_as_the_richest_kind_of_its_first_row(tmp_path: Path) -> None:
    pairs = [{"prompt": f"{n}?", "chosen": "a", "rejected": "b"} for n in range(3)]
    [(kind, _, split)] = tables(data(tmp_path, pairs))
    assert (kind, split) == ("preferences", "train")
    [(kind, *_)] = tables(data(tmp_path, [{"prompt": "?", "completion": "a"}]))
    assert kind == "demonstrations"
    [(kind, *_)] = tables(data(tmp_path, [{"prompt": "?"}]))
    assert kind == "prompts"


def test_half_a_pair_does_not_change_the_kind_of_a_file(tmp_path: Path) -> None:
    rows = [{"prompt": "0?", "chosen": None, "rejected": "b"}, {"prompt": "1?", "chosen": "a", "rejected": "b"}]
    given = data(tmp_path, rows)
    [((kind, *_), table)] = tables(given).items()
    assert (kind, len(table.rows)) == ("preferences", 1)
    assert table.told["left_out"] == {"rows that cannot be read": 1}
    assert "rows.jsonl:1: field 'chosen' is missing beside rejected" in table.told["problem"]
    with pytest.raises(DataError, match="rows.jsonl:1: field 'chosen' is missing beside rejected"):
        load(given, "preferences", "train", 0)


def test_equal_responses_are_counted_here_and_refused_by_training(tmp_path: Path) -> None:
    same = {"prompt": "0?", "chosen": "a", "rejected": "a"}
    given = data(tmp_path, [same, *({"prompt": f"{n}?", "chosen": "a", "rejected": "b"} for n in range(1, 9))])
    [table] = tables(given).values()
    assert (len(table.rows), survey(table.rows).identical) == (9, 1)
    assert all_leaks(given, ["preferences"], 0)[0]["count"] == 0
    with pytest.raises(DataError, match="rows.jsonl:1: chosen and rejected are the same"):
        load(given, "preferences", "train", 0)


def test_the_reader_names_the_cause_if_no_row_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:1: field 'label' must say whether the answer is good"):
        tables(data(tmp_path, [{"prompt": "?", "completion": "a", "label": "perhaps"}]))


def test_an_unknown_layout_is_reported_with_its_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rows.jsonl:1: no format reads this row: its columns are color, size"):
        tables(data(tmp_path, [{"color": "red", "size": 3}]))


def test_prompts_in_both_splits_are_found(tmp_path: Path) -> None:
    train, held_out = tmp_path / "train.jsonl", tmp_path / "validation.jsonl"
    for file, first in ((train, 0), (held_out, 8)):
        rows = [{"prompt": f"{n}?", "chosen": "a", "rejected": "b"} for n in range(first, first + 10)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = composed("stage=inspect", f"data.preferences.path={tmp_path}", f"data.cache={tmp_path}/cache").data
    [found] = [one for one in all_leaks(given, ["preferences"], 0) if one["train"] == "preferences (train)"]
    assert found["held_out"] == "preferences (validation)"
    assert (found["count"], found["share"], found["example"]) == (2, 0.2, "8?")
