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


def test_the_rate_leaves_out_the_start() -> None:
    one = {"rows": 1000, "first start": {"seconds": 15.0, "mib": 700}, "second start": {"seconds": 6.0, "mib": 500}}
    lines = data_scale.table({"start": {"seconds": 5.0, "mib": 500}, "sizes": [one], "trl": {"rows": 10, "1": 99.5}})
    assert "| 1,000 | 15.0 | 100 | 700 | 6.0 |" in lines
