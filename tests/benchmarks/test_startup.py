"""Seconds from a command to its first step, and to its end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import startup

BUSY = "import sys, time\nwhile time.process_time() < 0.3: pass\nopen(sys.argv[1], 'w').close()\ntime.sleep(60)"


def test_a_command_is_measured_until_its_step_begins_and_then_stopped(tmp_path: Path) -> None:
    found = startup.until([sys.executable, "-c", BUSY, str(tmp_path / "told")], tmp_path / "told")
    assert 0.25 <= found["cpu"] < 5  # the system counts in hundredths
    assert found["seconds"] < 30  # the command itself would run for a minute


def test_a_command_that_ends_without_a_step_is_reported_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="made no step:\nno model"):
        startup.until([sys.executable, "-c", "print('no model')"], tmp_path / "told")


def test_a_command_counts_only_its_own_seconds() -> None:
    found = startup.whole([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"])
    assert 0.25 <= found["cpu"] < 5  # the system counts in hundredths


def test_rounds_are_compared_one_by_one(capsys: pytest.CaptureFixture) -> None:
    measured = {
        side: [{"cpu": cpu, "seconds": cpu} for cpu in each]
        for side, each in {"ours": [1, 2, 4], "trl": [3, 8, 4]}.items()
    }
    row = startup.row("help", measured)
    assert (row["ratio"], row["spread"]) == (3.0, [1.0, 4.0])
    assert row["sides"]["trl"] == {"cpu": 4, "seconds": 4}
    assert "help: ours 2 s (2 s elapsed), trl 4 s" in capsys.readouterr().out


def test_a_completion_is_asked_for_as_bash_does(capsys: pytest.CaptureFixture) -> None:
    ours, theirs = startup.COMMANDS["completion"]
    done = subprocess.run(ours, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["stage.beta="]
    assert subprocess.run(theirs, capture_output=True, check=True).stdout == b""
    row = startup.row("completion", {"ours": [startup.whole(ours)], "hydra": [startup.whole(theirs)]})
    assert row["against"] == "import of hydra"
    assert 0 < row["ratio"] == row["spread"][0]
    assert "completion: ours " in capsys.readouterr().out


def test_pairs_are_plain_text_for_models_without_a_template(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in startup.plain(tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) > 1000
    assert all(isinstance(row[key], str) for row in rows[:50] for key in ("prompt", "chosen", "rejected"))
