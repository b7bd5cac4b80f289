"""benchmarks/: the scripts run, and what they print is what was measured."""

import json
from pathlib import Path

import pytest

from benchmarks import progression
from tests.conftest import FAST, TINY

STAGES = ("base", "sft", "reward", "dpo", "ppo", "compare")


def test_the_progression_over_a_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progression, "RESULT", tmp_path / "progression.json")
    own = ", ".join(f"{name}: [{', '.join(map(repr, FAST[name]))}]" for name in STAGES)
    arguments = ["progression", "--seeds", "3", "--", "hardware=cpu", *TINY, f"stage.overrides={{{own}}}"]
    monkeypatch.setattr("sys.argv", arguments)
    progression.main()
    [row] = json.loads((tmp_path / "progression.json").read_text())["seeds"]
    compared = json.loads(Path("checkpoints/benchmark/seed-3/compare/metrics.json").read_text())
    assert row["gold"]["sft"] == compared["models"]["sft"]["gold"]["mean"]
    assert row["seconds"] > 0
    shown = capsys.readouterr().out
    assert "| seed | gold base | gold sft |" in shown
    assert "seed 3: Who won the World Cup?" in shown


def test_checks_by_hand() -> None:
    row = {
        "gold": {"base": 0.0, "sft": 1.0, "dpo": 2.0, "ppo": 0.5},
        "win_rate": {"dpo": 0.65, "ppo": 0.64},
        "reward_accuracy": 0.86,
        "ceiling": 0.9,
    }
    assert list(progression.checks(row).values()) == [True, False, True, False, False]


def test_what_was_measured_is_shown_again(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["progression", "--show"])
    progression.main()
    rows = json.loads(progression.RESULT.read_text())["seeds"]
    assert "\n".join(progression.table(rows)) in capsys.readouterr().out
    assert len(rows) == 5
