import json
import os
from pathlib import Path
from typing import Any

import pytest

from rlhf.config import Source
from rlhf.data.files import row_of
from rlhf.data.sources import path_of, placed_rows, plan, source_of, split_files
from rlhf.errors import DataError
from tests.conftest import composed
from tests.data.test_load import source, write
from tests.hub.server import Hub, Repo

ROW = {"prompt": "q", "chosen": "a", "rejected": "b"}


def placed(given: Source) -> tuple[Any, Any]:
    return placed_rows(given, "preferences", "train", os.environ["RLHF_CACHE"])


def test_a_path_replaces_the_source_of_a_preset_and_its_splits() -> None:
    preset = composed("stage=dpo", "data=hh").data
    assert source_of(preset, "preferences") is preset.preferences
    own = source_of(composed("stage=dpo", "data=hh", "data.path=mine.jsonl").data, "preferences")
    assert (path_of(own), own.mix, own.train, own.validation, own.test) == ("mine.jsonl", None, "train", None, None)
    assert own.limit == preset.preferences.limit


def test_a_file_is_divided_and_a_folder_has_the_splits_that_are_there(tmp_path: Path) -> None:
    """(split, part): the held-out part of a split (True), the rest (False), or all of it (None)."""
    file = source(write(tmp_path / "one.jsonl", [ROW]), validation="validation")
    assert [plan(file, "preferences", split) for split in ("train", "validation", "test")] == [
        ("train", False), ("train", True), ("train", True),
    ]  # fmt: skip
    folder = tmp_path / "data"
    for name in ("train", "test"):
        write(folder / f"{name}.jsonl", [ROW])
    assert [plan(source(folder), "preferences", split) for split in ("train", "validation", "test")] == [
        ("train", False), ("train", True), ("test", None),
    ]  # fmt: skip
    write(folder / "validation.jsonl", [ROW])
    assert [plan(source(folder), "preferences", split)[0] for split in ("train", "validation", "test")] == [
        "train", "validation", "test",
    ]  # fmt: skip


def test_a_split_that_names_a_file_is_refused(tmp_path: Path) -> None:
    file = source(write(tmp_path / "one.jsonl", [ROW]), validation="held_out.jsonl")
    with pytest.raises(DataError, match=r"data.preferences.validation=held_out.jsonl names a file beside .*one.jsonl"):
        plan(file, "preferences", "train")


def test_shards_are_one_split_in_their_order(tmp_path: Path) -> None:
    names = (
        "train-00001-of-00002.jsonl",
        "train-00000-of-00002.jsonl",
        "trainer.jsonl",
        "validation.jsonl",
        "train.txt",
    )
    for number, name in enumerate(names):
        write(tmp_path / name, [ROW | {"prompt": str(number)}])
    assert [path.name for path in split_files(tmp_path, "train")] == sorted(names[:2])
    _, rows = placed(source(tmp_path))
    assert [row_of(place, raw)["prompt"] for place, raw in rows] == ["1", "0"]


def test_rows_have_their_places_and_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    one, same, other = (
        write(tmp_path / f"{name}.jsonl", rows) for name, rows in {"a": [ROW], "b": [ROW], "c": [ROW, ROW]}.items()
    )
    prints = [placed(source(path))[0] for path in (one, same, other)]
    assert prints[0] == prints[1] != prints[2]
    _, rows = placed(source(other))
    assert [place for place, _ in rows] == [f"{other}:1", f"{other}:2"]


def test_text_in_files_on_the_hub_stays_as_written(hub: Hub) -> None:
    """datasets makes timestamps of dates in JSON and numbers of digits in CSV."""
    dates = [ROW | {"chosen": "2019-07-14", "rejected": "2019-07-14T10:00:00Z"}] * 2
    tabs = '---\nconfigs:\n- config_name: default\n  data_files: train.csv\n  sep: "\\t"\n---\n'
    files = {
        "json": {"train.jsonl": "".join(json.dumps(row) + "\n" for row in dates)},
        "csv": {"train.csv": "prompt,chosen,rejected\nq,007,NA\n"},
        "tabs": {"train.csv": "prompt\tchosen\trejected\nq\ta\tb\n", "README.md": tabs},
    }
    found = {}
    for name, own in files.items():
        repo = hub.repos["datasets", f"alice/{name}"] = Repo(private=False, owner="alice")
        commit = repo.commit("main", "first", {file: text.encode() for file, text in own.items()})
        content, rows = placed(source(f"alice/{name}"))
        found[name] = [(place, row_of(place, raw)) for place, raw in rows]
        assert name == "tabs" or commit in content[0]
    assert found["json"] == [(f"alice/json/train.jsonl:{line}", row) for line, row in enumerate(dates, start=1)]
    assert found["csv"] == [("alice/csv/train.csv:2", ROW | {"chosen": "007", "rejected": "NA"})]
    assert found["tabs"] == [("alice/tabs train row 1", ROW)]


@pytest.mark.parametrize(
    ("name", "message"),
    [("none.jsonl", "there is no such file or folder"), (".", "has no file for the split 'train'")],
)
def test_a_place_without_rows_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        placed(source(tmp_path / name))
    for suffix in ("jsonl", "csv"):
        (tmp_path / f"train.{suffix}").touch()
    with pytest.raises(DataError, match="has 2 files for the split 'train': there must be one"):
        placed(source(tmp_path))
