"""stage=sweep as a stage; tests/cli/test_sweep.py runs sweeps themselves."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import Settings
from rlhf.errors import LineageError
from rlhf.runs.run import Run
from rlhf.stages import execute
from tests.conftest import composed
from tests.evaluation.sweeps.test_jobs import member


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Settings]:
    return lambda *more: composed("stage=sweep", f"checkpoints={tmp_path}", "hardware=cpu", *more)


def test_it_draws_what_lies_below_the_name_and_draws_it_again(
    tmp_path: Path, settings: Callable[..., Settings], capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "almanac" / "dpo"
    for seed in (1, 2):
        member(folder, seed=seed, metrics={"gold": float(seed), "kl": 0.5}, stage__beta="0.1")
    place = tmp_path / "almanac" / "sweep"
    assert execute(settings("objective=gold"), place) == {"jobs": 2.0, "unfinished": 0.0, "objective": 1.5}
    assert "stage.run=" in capsys.readouterr().out
    assert (place / "figures" / "frontier.svg").exists()
    member(folder, seed=1, metrics={"gold": 3.0, "kl": 0.5}, stage__beta="0.2")
    execute(settings("objective=gold"), place)
    rows = json.loads((place / "leaderboard.json").read_text())["rows"]
    assert [row["settings"]["stage.beta"] for row in rows] == ["0.2", "0.1"]
    assert Run.open(place).manifest["output"]


def test_a_missing_sweep_is_reported_and_nothing_is_written(tmp_path: Path, settings: Callable[..., Settings]) -> None:
    with pytest.raises(
        LineageError,
        match=r"holds no sweep and is not a run of base, sft, reward, dpo, kto, ppo, online_dpo, raft: run one with",
    ):
        execute(settings(), tmp_path / "almanac" / "sweep")
    assert not (tmp_path / "almanac" / "sweep").exists()
