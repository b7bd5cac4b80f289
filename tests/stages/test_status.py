import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlhf.config import Settings
from rlhf.runs.run import Run
from rlhf.stages import execute
from rlhf.stages.status import tree, unfinished
from tests.conftest import composed, manifest


def test_nothing_is_trained_yet(settings_of_status: Callable, capsys: pytest.CaptureFixture) -> None:
    execute(settings_of_status("nowhere"), Path("unused"))
    assert "Nothing is trained in nowhere yet." in capsys.readouterr().out


@pytest.fixture
def settings_of_status() -> Callable[[object], Settings]:
    return lambda root, *overrides: composed(f"checkpoints={root}", *overrides)


def test_the_tree_shows_how_runs_descend(
    chain: Path, settings_of_status: Callable, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.stages.status.console.width", 300)
    execute(settings_of_status(chain), Path("unused"))
    lines = capsys.readouterr().out.splitlines()
    assert columns(lines) == {"base": 4, "sft": 8, "reward": 12}


def columns(lines: list[str]) -> dict[str, int]:
    """How far each stage's run is indented."""
    stages = ("base", "sft", "reward")
    return {stage: line.index("almanac/") for stage in stages for line in lines if f"almanac/{stage} " in line}


@pytest.mark.parametrize("finished", [("10", "10", "10"), ("30", "20", "10")], ids=["in one second", "parents again"])
def test_the_tree_does_not_go_by_time(chain: Path, finished: tuple[str, ...]) -> None:
    found = [Run.open(chain / "almanac" / stage) for stage in ("reward", "base", "sft")]
    for one, second in zip(found, finished, strict=True):
        one.manifest["finished"] = f"2026-01-01T00:00:{second}+00:00"
    assert columns(drawn(chain, found)) == {"base": 4, "sft": 8, "reward": 12}


def test_the_tree_survives_a_run_that_replaced_its_parent(chain: Path) -> None:
    base = Run.open(chain / "almanac" / "base")
    base.manifest["parents"] = {"policy": {"path": str(base.directory)}}
    assert columns(drawn(chain, [base])) == {"base": 4}


def drawn(root: Path, found: list[Run]) -> list[str]:
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(tree(root, found))
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_the_tree_fits_the_terminal_and_shows_two_metrics(
    chain: Path,
    settings_of_status: Callable,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    width: int,
) -> None:
    monkeypatch.setattr("rlhf.stages.status.console.width", width)
    execute(settings_of_status(chain), Path("unused"))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(len(line) for line in lines[1:]) <= width
    assert len(lines) == 5  # the root, three runs and a blank line: none is wrapped
    assert re.search(r"└── almanac/reward  test accuracy [\d.]+, ECE [\d.e-]+", lines[3])
    assert "seed 0" in lines[1] if width == 120 else "checkpoints" not in lines[1]


def test_a_sweep_is_one_line_and_an_ensemble_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf.stages.status.console.width", 120)
    found = [written(tmp_path, "almanac/sft", "sft")]
    above = {"policy": {"path": str(tmp_path / "almanac/sft")}}
    for rate, loss in {"a": 0.3, "b": 0.9, "c": 0.5}.items():
        metrics = {"eval/rewards/accuracies": loss, "eval/rewards/margins": 0.1, "objective": loss}
        found.append(written(tmp_path, f"almanac/dpo/stage.beta-{rate}", "dpo", parents=above, metrics=metrics))
    best = {"policy": {"path": str(tmp_path / "almanac/dpo/stage.beta-b")}}
    found.append(written(tmp_path, "other/ppo", "ppo", name="other", parents=best))
    found.append(written(tmp_path, "almanac/reward", "reward", parents=above))
    found.append(written(tmp_path, "almanac/reward/member-1", "reward", parents=above))
    found.append(written(tmp_path, "almanac/dpo", "dpo", parents=above))
    for seed in ("seed-1", "seed-2"):
        found.append(written(tmp_path, f"almanac/progression/{seed}/sft", "sft", name=f"almanac/progression/{seed}"))
        found.append(written(tmp_path, f"almanac/progression/{seed}/dpo", "dpo", name=f"almanac/progression/{seed}"))
    shown = [line.partition("  2026")[0].rstrip() for line in drawn(tmp_path, found)[1:]]
    assert shown == [
        "├── almanac/sft",
        "│   ├── almanac/dpo: sweep of 3  best held-out accuracy 0.9, margin 0.1  stage.beta-b",
        "│   │   └── other/ppo",
        "│   ├── almanac/reward",
        "│   └── almanac/dpo",
        "└── almanac/progression: sweep of 4  2 chains",
    ]


def written(root: Path, place: str, stage: str, **more: Any) -> Run:
    """A finished run that nothing was trained for."""
    (root / place).mkdir(parents=True, exist_ok=True)
    (root / place / "run.json").write_text(json.dumps(manifest(stage, **more)))
    return Run(root / place, root / place, manifest(stage, **more), {})


def test_what_trained_nothing_is_shown_apart(
    chain: Path, settings_of_status: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(chain / "almanac" / "sft", tmp_path / "almanac" / "sft")
    written(tmp_path, "almanac/inspect", "inspect", metrics={"rows": 3, "leaks": 0})
    execute(settings_of_status(tmp_path), Path("unused"))
    above, below = capsys.readouterr().out.split("Data, samples and reports\n")
    assert "almanac/sft" in above
    assert "inspect" not in above
    assert below.startswith("  almanac/inspect  3 rows, 0 prompts in both train and held-out")


def test_an_interrupted_run_is_shown(
    settings_of_status: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "almanac" / ".sft.partial").mkdir(parents=True)
    told = manifest("sft", status="interrupted", reason="interrupted from the keyboard")
    (tmp_path / "almanac" / ".sft.partial" / "run.json").write_text(json.dumps(told))
    execute(settings_of_status(tmp_path), Path("unused"))
    shown = " ".join(capsys.readouterr().out.split())
    assert "not finished" in shown
    assert "interrupted from the keyboard" in shown


@pytest.mark.parametrize("written", ["{", "[]", "{}", '{"stage": "sft"}', "status"])
def test_a_run_json_that_cannot_be_read_is_listed_and_the_others_are_shown(
    chain: Path, settings_of_status: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, written: str
) -> None:
    shutil.copytree(chain / "almanac" / "sft", tmp_path / "almanac" / "sft")
    if written == "status":
        written = json.dumps(manifest("sft", status="interrupted"))
    for place in ("mine/sft", "mine/.dpo.partial"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "run.json").write_text(written)
    execute(settings_of_status(tmp_path), Path("unused"))
    shown = " ".join(capsys.readouterr().out.split())
    assert f"unreadable: {tmp_path}/mine/sft" in shown
    assert "almanac/sft held-out loss" in shown


def test_an_interrupted_run_says_what_it_is_resumed_from(
    settings_of_status: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    work = tmp_path / "almanac" / ".sft.partial"
    (work / "resume" / "checkpoint-424").mkdir(parents=True)
    (work / "resume" / "checkpoint-424" / "digests.json").touch()
    (work / "run.json").write_text(json.dumps(manifest("sft", status="running")))
    execute(settings_of_status(tmp_path), Path("unused"))
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "not finished: almanac/sft (killed, or still running), has checkpoint-424, and this continues it: "
        "python -m rlhf stage=sft resume=true"
    ) in shown


def test_a_job_of_a_sweep_is_continued_by_the_sweep(tmp_path: Path) -> None:
    work = tmp_path / "almanac" / "dpo" / ".stage.beta-0.1.partial"
    (work / "resume" / "checkpoint-424").mkdir(parents=True)
    (work / "resume" / "checkpoint-424" / "digests.json").touch()
    (work / "run.json").write_text(json.dumps(manifest("dpo", status="running")))
    assert unfinished(work, tmp_path) == (
        "not finished: almanac/dpo/stage.beta-0.1 (killed, or still running), has checkpoint-424: "
        "the command of its sweep continues it"
    )
