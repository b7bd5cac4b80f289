import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from rlhf.config import Settings
from rlhf.runs.run import Run, runs
from rlhf.stages import execute
from rlhf.stages.status import next_command, tree
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
    assert columns(lines, chain) == {"base": 4, "sft": 8, "reward": 12}
    assert lines[-1] == "Next: python -m rlhf stage=dpo"


def columns(lines: list[str], root: Path) -> dict[str, int]:
    """How far each stage's run is indented."""
    stages = ("base", "sft", "reward")
    return {stage: line.index(str(root)) for stage in stages for line in lines if f"/{stage} " in line}


@pytest.mark.parametrize("finished", [("10", "10", "10"), ("30", "20", "10")], ids=["in one second", "parents again"])
def test_the_tree_does_not_go_by_time(chain: Path, finished: tuple[str, ...]) -> None:
    found = [Run.open(chain / "almanac" / stage) for stage in ("reward", "base", "sft")]
    for one, second in zip(found, finished, strict=True):
        one.manifest["finished"] = f"2026-01-01T00:00:{second}+00:00"
    assert columns(drawn(chain, found), chain) == {"base": 4, "sft": 8, "reward": 12}


def test_the_tree_survives_a_run_that_replaced_its_parent(chain: Path) -> None:
    base = Run.open(chain / "almanac" / "base")
    base.manifest["parents"] = {"policy": {"path": str(base.directory)}}
    assert columns(drawn(chain, [base]), chain) == {"base": 4}


def drawn(root: Path, found: list[Run]) -> list[str]:
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(tree(root, found))
    return console.export_text().splitlines()


def test_the_next_command(chain: Path, settings_of_status: Callable) -> None:
    found = list(runs(chain))
    assert next_command(settings_of_status(chain), found) == "python -m rlhf stage=dpo"
    assert next_command(settings_of_status(chain), []) == "python -m rlhf stage=progression"
    assert next_command(settings_of_status(chain, "name=x"), found, ["name=x"]).endswith("stage=progression name=x")
    given = ["experiment=stories", "checkpoints=elsewhere", "stage.sample_every=3"]  # the last is of one stage alone
    told = next_command(settings_of_status(chain, "experiment=stories"), found, given)
    assert told == "python -m rlhf stage=progression experiment=stories checkpoints=elsewhere"
    for stage in ("dpo", "ppo", "compare"):
        found.append(_finished(stage))
    assert next_command(settings_of_status(chain), found).startswith("python -m rlhf -m stage=dpo stage.beta=")


def _finished(stage: str):
    from types import SimpleNamespace

    return SimpleNamespace(stage=stage, manifest={"name": "almanac"})


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
    assert "seed 0" in shown
    assert "Next: python -m rlhf" in shown


def test_an_interrupted_run_says_what_it_is_resumed_from(
    settings_of_status: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    work = tmp_path / "almanac" / ".sft.partial"
    (work / "resume" / "checkpoint-424").mkdir(parents=True)
    (work / "resume" / "checkpoint-424" / "digests.json").touch()
    (work / "run.json").write_text(json.dumps(manifest("sft", status="running")))
    execute(settings_of_status(tmp_path), Path("unused"))
    shown = " ".join(capsys.readouterr().out.split())
    assert "(killed, or still running; resume=true continues from checkpoint-424)" in shown
