"""benchmarks/: the scripts run, and what they print is what was measured."""

import json
from pathlib import Path

import pytest

from benchmarks import progression
from rlhf.evaluation import report
from tests.conftest import FAST, TINY
from tests.evaluation.making import whole

STAGES = ("base", "sft", "reward", "dpo", "ppo", "compare")


def test_the_progression_over_a_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progression, "RESULT", tmp_path / "progression.json")
    monkeypatch.setattr(progression, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(progression, "README", tmp_path / "README.md")
    Path("README.md").write_text("before\n<!-- table over seeds -->\nold\n<!-- end -->\nafter\n")
    own = ", ".join(f"{name}: [{', '.join(map(repr, FAST[name]))}]" for name in STAGES)
    last = ["--comparison", *FAST["compare"]]
    arguments = ["progression", "--seeds", "3", *last, "--", "hardware=cpu", *TINY, f"stage.overrides={{{own}}}"]
    monkeypatch.setattr("sys.argv", arguments)
    progression.main()
    measured = json.loads((tmp_path / "progression.json").read_text())
    [row] = measured["seeds"]
    readme = Path("README.md").read_text()
    assert readme == "\n".join(
        ["before", "<!-- table over seeds -->", *measured["published"], "<!-- end -->", "after", ""]
    )
    assert measured["published"][-1].endswith("(benchmarks/figures/scores.svg)")
    assert Path("figures/frontier.svg").read_text().startswith("<svg")
    compared = json.loads(Path("checkpoints/benchmark/seed-3/compare/metrics.json").read_text())
    assert row["gold"]["sft"] == compared["models"]["sft"]["gold"]["mean"]
    assert row["seconds"] > 0
    shown = capsys.readouterr().out
    assert "| seed | gold base | gold sft |" in shown
    assert "seed 3: Who won the World Cup?" in shown


def test_the_table_over_seeds_goes_to_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = whole()
    report.write(told, tmp_path)
    monkeypatch.setattr(progression, "FIGURES", tmp_path / "shown")
    monkeypatch.setattr(progression, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text("<!-- table over seeds -->\n<!-- end -->\n")
    lines = progression.publish(tmp_path)
    assert lines[0] == "|  | base | sft | dpo | ppo |"
    assert lines[2] == "| gold reward | 0 (0.5) | 1 (0.5) | 2 (0.5) | 3 (0.5) |"
    assert lines[3] == ""
    assert (tmp_path / "README.md").read_text() == "\n".join(["<!-- table over seeds -->", *lines, "<!-- end -->", ""])


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
