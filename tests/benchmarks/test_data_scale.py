"""Large files in small: the pairs, the memory of a command, the table."""

import gzip
import json
import os
import sys
from itertools import islice
from pathlib import Path

import pytest

from benchmarks import data_scale

TALK = {
    "prompt": [{"role": "user", "content": "Q"}],
    "chosen": [{"role": "assistant", "content": "A"}],
    "rejected": [{"role": "assistant", "content": "B"}],
}


def test_pairs_are_distinct_conversations_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "preference").mkdir()
    same, long = TALK | {"rejected": TALK["chosen"]}, TALK | {"chosen": [{"role": "assistant", "content": "A" * 900}]}
    for name in data_scale.FILES:
        with gzip.open(tmp_path / "preference" / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in (TALK, same, long, TALK | {"prompt": "text"}))
    monkeypatch.setenv("RLHF_TEST_DATA", str(tmp_path))
    found = list(islice(data_scale.pairs(), 5))
    assert [row["prompt"][0]["content"] for row in found] == ["0. Q", "1. Q", "2. Q", "3. Q", "4. Q"]
    assert all(row["chosen"] == TALK["chosen"] for row in found)
    data_scale.write_pairs(tmp_path / "rows.jsonl", 3)
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == found[:3]


def test_memory_is_that_of_a_command_and_its_processes() -> None:
    child = "import time; kept = bytearray(60 * 2**20); time.sleep(1)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    found = data_scale.measured([sys.executable, "-c", code], dict(os.environ))
    assert found["seconds"] >= 1
    assert 60 <= found["mib"] < 200


def test_a_command_that_fails_is_shown_with_its_output() -> None:
    with pytest.raises(SystemExit, match="no such thing"):
        data_scale.measured([sys.executable, "-c", "raise SystemExit('no such thing')"], dict(os.environ))


def test_parts_of_the_work_are_recorded_when_their_tables_are_complete(tmp_path: Path) -> None:
    told = {"old": {"read": 1}, "a": {"read": 3, "rows": 3}, "b": {"cut": 0}, "c": {}, "d": {"value": {"rows": 3}}}
    told |= {"e": {"value": "digest"}, ".partial": {"read": 9}}
    code = "import pathlib, time; time.sleep(0.5)"
    for name, counts in told.items():
        (tmp_path / name).mkdir()
        meta = tmp_path / name / "meta.json"
        code += f"\npathlib.Path({str(meta)!r}).write_text({json.dumps({'told': counts})!r}); time.sleep(0.3)"
        if name == "old":
            meta.write_text(json.dumps({"told": counts}))
    environment = dict(os.environ) | {"RLHF_CACHE": str(tmp_path)}
    found = data_scale.measured([sys.executable, "-c", code], environment)["ended"]
    assert list(found) == ["reading", "tokenizing", "dividing", "surveying"]
    assert list(found.values()) == sorted(found.values())
    assert 0.5 < found["reading"] <= found["surveying"]


def test_a_new_size_replaces_itself_and_keeps_the_others() -> None:
    known = {"sizes": [{"rows": 10, "start": 1}, {"rows": 30, "start": 1}], "trl": {"rows": 5, "1": 2.0}}
    found = data_scale.merged(known, {"rows": 20}, {"rows": 0})
    assert [one["rows"] for one in found["sizes"]] == [10, 20, 30]
    assert found["trl"] == {"rows": 5, "1": 2.0}
    found = data_scale.merged(found, {"rows": 30, "start": 2}, {"rows": 7, "1": 3.0})
    assert found["sizes"][2] == {"rows": 30, "start": 2}
    assert len(found["sizes"]) == 3
    assert found["trl"] == {"rows": 7, "1": 3.0}


def test_the_rate_leaves_out_the_start() -> None:
    one = {"rows": 1000, "start": 5.0, "first start": {"seconds": 15.0, "mib": 700}}
    result = {"sizes": [one], "trl": {"rows": 10, "1": 99.5}}
    assert "| 1,000 | 15.0 | 100 | 700 | None |" in data_scale.table(result)
    one["second start"] = {"seconds": 6.0, "mib": 500}
    assert "| 1,000 | 15.0 | 100 | 700 | 6.0 |" in data_scale.table(result)
