"""benchmarks/: the scripts run, and what they print is what was measured."""

import json
from pathlib import Path

import pytest

from benchmarks import ppo_seeds, progression
from rlhf import cli
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


def test_ppo_over_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """One seed of each kind, with a sentinel that sees an illness in the first update of the first wrong setting."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ppo_seeds, "RESULT", tmp_path / "ppo_seeds.json")
    monkeypatch.setattr(ppo_seeds, "rlhf", in_process)
    monkeypatch.setitem(ppo_seeds.BAD, "learning rates × 30", [ppo_seeds.REWARD, "stage.sentinel.window=1", *SEEN])
    own = [f"{stage}:{item}" for stage in ("base", "sft", "reward", "ppo", "compare") for item in FAST[stage]]
    arguments = ["ppo_seeds", "--seeds", "1", "--bad", "--", "hardware=cpu", *TINY, *own]
    monkeypatch.setattr("sys.argv", arguments)
    ppo_seeds.main()
    found = json.loads((tmp_path / "ppo_seeds.json").read_text())
    compared = json.loads(Path("checkpoints/ppo-seeds/compare/metrics.json").read_text())["models"]
    [row] = found["healthy"]
    assert row["gold"] == [compared["seed-0"]["gold"][part] for part in ("mean", "low", "high")]
    assert row["collapsed"] == (row["gold"][0] < compared["sft"]["gold"]["mean"])
    [caught] = found["bad"]["learning rates × 30"]
    assert caught["ended_early"]
    assert caught["diagnoses"][0] == ["steps_too_large", 1]
    assert not found["bad"]["no KL penalty"][0]["ended_early"]
    shown = capsys.readouterr().out
    assert "| learning rates × 30 | 1 of 1 | 1 (1 to 1) | steps_too_large (1) |" in shown
    assert "| no KL penalty | 0 of 1 | – | – |" in shown
    monkeypatch.setattr("sys.argv", ["ppo_seeds", "--show"])
    ppo_seeds.main()
    assert capsys.readouterr().out.strip() == "\n".join(ppo_seeds.table(found))


SEEN = ("stage.sentinel.step_kl=1e-12", "stage.sentinel.explained_variance=null", "stage.sentinel.distinct=null")


def in_process(*overrides: str, check: bool = True) -> int:
    """``python -m rlhf`` without seconds of imports."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.argv", ["rlhf", *overrides])
        try:
            cli.main()
        except SystemExit as error:
            assert not check, overrides
            return error.code
    return 0


def test_means_over_seeds_by_hand() -> None:
    """0, 1, 2: mean 1, deviation 1, and with two degrees of freedom 4.30 / √3 = 2.483."""
    assert ppo_seeds.interval([0.0, 1.0, 2.0]) == "1.000 ±2.483"
    assert ppo_seeds.interval([0.5]) == "0.500"
