import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import Settings
from rlhf.run import runs
from rlhf.stages import execute
from rlhf.stages.status import next_command
from tests.conftest import composed


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
    depth = {
        stage: line.index(str(chain)) for stage in ("base", "sft", "reward") for line in lines if f"/{stage} " in line
    }
    assert depth["base"] < depth["sft"] < depth["reward"]
    assert lines[-1] == "Next: python -m rlhf stage=dpo"


def test_the_next_command(chain: Path, settings_of_status: Callable) -> None:
    found = list(runs(chain))
    assert next_command(settings_of_status(chain), found) == "python -m rlhf stage=dpo"
    assert next_command(settings_of_status(chain), []) == "python -m rlhf stage=progression"
    assert next_command(settings_of_status(chain, "name=x"), found) == "python -m rlhf stage=progression name=x"
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
    manifest = {"status": "interrupted", "reason": "interrupted from the keyboard"}
    (tmp_path / "almanac" / ".sft.partial" / "run.json").write_text(json.dumps(manifest))
    execute(settings_of_status(tmp_path), Path("unused"))
    shown = " ".join(capsys.readouterr().out.split())
    assert "not finished" in shown
    assert "interrupted from the keyboard" in shown
