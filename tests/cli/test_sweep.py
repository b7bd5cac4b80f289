"""Sweeps from the command line: finished jobs are skipped, failed ones are reported, a leaderboard is written."""

import csv
import json
import random
import shlex
import signal
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from rlhf.cli import main, sweep
from rlhf.evaluation.sweeps.jobs import record_path
from rlhf.runs.run import Run
from tests.conftest import FAST, TINY
from tests.test_resume import results, start

SHORT = (*FAST["dpo"], "stage.sample_prompts=0")
LAUNCHERS = [
    pytest.param(
        name, marks=pytest.mark.skipif(find_spec(f"hydra_plugins.{plugin}") is None, reason=f"without {plugin}")
    )
    for name, plugin in {"joblib": "hydra_joblib_launcher", "submitit_local": "hydra_submitit_launcher"}.items()
]
optuna = pytest.mark.skipif(find_spec("hydra_plugins.hydra_optuna_sweeper") is None, reason="without optuna's sweeper")


def arguments(chain: Path, root: Path, *more: str, stage: str = "dpo", own: tuple[str, ...] = SHORT) -> list[str]:
    parents = [f"stage.policy={chain}/almanac/sft"] + ([f"stage.reward={chain}/almanac/reward"] * (stage == "ppo"))
    return ["-m", f"stage={stage}", f"checkpoints={root}", "hardware=cpu", *TINY, *own, *parents, *more]


@pytest.fixture
def rlhf(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command in this process; returns its exit code."""

    def command(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["rlhf", *words])
        try:
            main.main()
        except SystemExit as ended:
            return ended.code
        return 0

    return command


@pytest.fixture(scope="module")
def alone(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a sweep of one job that runs and one that fails, in this process."""
    root = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["rlhf", *arguments(chain, root, "stage.beta=0.1,-1")])
        with pytest.raises(SystemExit):
            main.main()
    return root


def times(folder: Path) -> dict[str, str]:
    """When each member's run began."""
    return {path.parent.name: Run.open(path.parent).manifest["started"] for path in members(folder)}


def members(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("[!.]*/run.json")) if path.parent.name != "sweep"]


def board(folder: Path) -> dict:
    return json.loads((folder / "sweep" / "leaderboard.json").read_text())


def test_a_sweep_ends_with_its_leaderboard(
    chain: Path, tmp_path: Path, rlhf: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    command = arguments(chain, tmp_path, "stage.beta=0.1,0.5", "seed=1,2", "objective=gold")
    assert rlhf(*command) == 0
    told = capsys.readouterr().out
    folder = tmp_path / "almanac" / "dpo"
    found = board(folder)
    assert found["objective"] == {"gold": "maximize"}
    assert {(row["settings"]["stage.beta"], *row["seeds"]) for row in found["rows"]} == {("0.1", 1, 2), ("0.5", 1, 2)}
    for row in found["rows"]:
        gold = [Run.open(Path(run)).manifest["metrics"]["gold"] for run in row["runs"]]
        assert row["metrics"]["gold"]["mean"] == pytest.approx(sum(gold) / 2)
        assert row["metrics"]["gold"]["deviation"] == pytest.approx(abs(gold[0] - gold[1]) / 2**0.5)
    digests = {Run.open(path.parent).manifest["parents"]["policy"]["digest"] for path in members(folder)}
    assert digests == {Run.open(chain / "almanac" / "sft").manifest["weights"]}  # every seed starts from one
    assert (folder / "sweep" / "figures" / "frontier.svg").exists()
    rows = list(csv.DictReader((folder / "sweep" / "leaderboard.csv").read_text().splitlines()))
    assert [row["seed"] for row in rows] == ["1", "2", "1", "2"]
    assert "leaderboard" in told
    assert found["publish"] in told
    assert rlhf(*shlex.split(found["publish"])[3:], f"checkpoints={tmp_path}", "hardware=cpu", *TINY) == 0
    assert list((tmp_path / "almanac" / "publish" / "bundles").iterdir())

    before = times(folder)
    assert rlhf(*command) == 0
    assert times(folder) == before
    assert capsys.readouterr().out.count("up to date, skipped") == 4
    assert rlhf(*command, "stage.label_smoothing=0.1") == 1  # another setting for a finished run
    assert capsys.readouterr().err.count("stage.label_smoothing was 0.0, now 0.1: overwrite=true replaces it") == 4
    assert board(folder) == found
    assert times(folder) == before


SWEPT = {  # stage -> its settings and those that are swept
    "kto": (*SHORT, "stage.beta=0.1,0.5"),
    "online_dpo": (*FAST["online_dpo"], "stage.rounds=1", "stage.sample_prompts=0", "stage.pairs=best,best_worst"),
    "raft": (*FAST["raft"], "stage.control=false", "stage.sample_prompts=0", "stage.samples=2,3"),
    "ppo": (
        *FAST["ppo"], "stage.updates=1", "stage.teacher={chain}/almanac/base", "stage.ema=0.5",
        "stage.ptx_block_length=16", "stage.ptx_coef=0,0.5",
    ),
}  # fmt: skip


@pytest.mark.parametrize("stage", SWEPT)
def test_the_methods_are_swept_and_their_best_is_published(
    chain: Path, tmp_path: Path, rlhf: Callable[..., int], stage: str
) -> None:
    """PPO with a teacher, pretraining text and an average of its weights; without a repository nothing is uploaded."""
    *own, swept = (one.format(chain=chain) for one in SWEPT[stage])
    reward = {"kto": [], "ppo": ["stage.reward=null"]}.get(stage, [f"stage.reward={chain}/almanac/reward"])
    assert rlhf(*arguments(chain, tmp_path, *reward, swept, stage=stage, own=tuple(own))) == 0
    found = board(tmp_path / "almanac" / stage)
    assert len(found["rows"]) == 2
    assert not found["unfinished"]
    given = [*shlex.split(found["publish"])[3:], f"checkpoints={tmp_path}", "hardware=cpu", *TINY]
    assert rlhf(*given) == 0
    [card] = (tmp_path / "almanac" / "publish" / "bundles").glob("*/README.md")
    assert f"| {stage} | " in card.read_text(encoding="utf-8")


def test_merges_are_swept_without_a_leaderboard_and_published(
    chain: Path, tmp_path: Path, rlhf: Callable[..., int]
) -> None:
    """Nothing is measured on a merged model, so no job is the best."""
    runs = [f"stage.models=[{chain}/almanac/base,{chain}/almanac/sft]", "stage.weights=[0.5,0.5],[0.3,0.7]"]
    assert rlhf("-m", "stage=merge", f"checkpoints={tmp_path}", "hardware=cpu", *TINY, *runs) == 0
    folder = tmp_path / "almanac" / "merge"
    jobs = members(folder)
    assert len(jobs) == 2
    assert not (folder / "sweep").exists()
    assert rlhf("stage=publish", f"stage.run={jobs[0].parent}", f"checkpoints={tmp_path}", "hardware=cpu", *TINY) == 0
    [card] = (tmp_path / "almanac" / "publish" / "bundles").glob("*/README.md")
    assert "| merge | " in card.read_text(encoding="utf-8")


def test_a_job_that_fails_leaves_its_siblings_running_and_is_made_good_by_the_same_command(
    chain: Path, tmp_path: Path, rlhf: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    command = arguments(chain, tmp_path, "stage.beta=-1,0.1,0.3")
    assert rlhf(*command) == 1
    folder = tmp_path / "almanac" / "dpo"
    [failure] = board(folder)["unfinished"]
    assert failure["reason"] == "stage.beta must be positive, got -1.0"
    assert "failed: " in capsys.readouterr().out
    assert len(board(folder)["rows"]) == 2
    before = times(folder)
    with monkeypatch.context() as broken:
        broken.setattr("rlhf.modeling.loading.save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # a defect stays a traceback, and is drawn all the same
            rlhf(*arguments(chain, tmp_path, "stage.beta=0.1,0.7"))
    assert board(folder)["unfinished"][0]["reason"] == "ZeroDivisionError: division by zero"
    assert rlhf(*arguments(chain, tmp_path, "stage.beta=0.1,0.7")) == 0
    assert before.items() < times(folder).items()


def test_a_sweep_of_plans_leaves_nothing_behind_and_hides_no_job(
    chain: Path,
    tmp_path: Path,
    rlhf: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Each job is planned, also after one that does not fit, which makes the exit code 1."""
    command = arguments(chain, tmp_path, "stage.trainer.per_device_train_batch_size=8,4", "hardware.plan=true")
    assert rlhf(*command) == 0
    assert capsys.readouterr().out.count("dpo: fits: ") == 2
    monkeypatch.setattr("rlhf.hardware.memory.available", lambda device: 1000)
    assert rlhf(*command) == 1
    told = capsys.readouterr()
    assert told.out.count("dpo: does not fit: ") == 2
    assert told.err.count("does not fit: see the remedies in the plan above") == 2
    assert not list(tmp_path.rglob("*.json"))


@optuna
def test_a_search_is_not_planned(
    chain: Path, tmp_path: Path, rlhf: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    assert rlhf(*arguments(chain, tmp_path, "sweep=dpo", "hardware.plan=true")) == 1
    assert capsys.readouterr().err.count("hardware.plan=true plans listed jobs") == 1
    assert not list(tmp_path.rglob("*.json"))


def test_no_job_is_left_over_where_all_of_them_fail(
    chain: Path, tmp_path: Path, rlhf: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    assert rlhf(*arguments(chain, tmp_path, "stage.beta=-1,-2")) == 1
    assert "No job has finished." in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "almanac" / "dpo").iterdir() if path.name[0] != "."] == ["sweep"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["objective=golden"],
            "objective must be one of gold, win_rate, kl, reward_accuracy, margin, loss for stage=dpo",
        ),
        (["objective=gold", "eval_set.prompts=0"], "objective=gold is measured on held-out prompts"),
        (["objective=win_rate", "data.gold=null"], "objective=win_rate needs a gold reward"),
    ],
)
def test_an_objective_that_will_not_be_measured_is_refused_before_training(
    chain: Path, tmp_path: Path, rlhf: Callable[..., int], capsys: pytest.CaptureFixture, more: list[str], message: str
) -> None:
    assert rlhf(*arguments(chain, tmp_path, *more, "seed=1,2")) == 1
    assert message in capsys.readouterr().err
    assert not members(tmp_path / "almanac" / "dpo")


def test_stage_sweep_puts_sweeps_of_two_methods_on_one_frontier(
    chain: Path, tmp_path: Path, rlhf: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    assert rlhf(*arguments(chain, tmp_path, "stage.beta=0.1,0.5")) == 0
    ppo = (*FAST["ppo"], "stage.updates=1")
    assert rlhf(*arguments(chain, tmp_path, "stage.kl_coef=0.05,0.2", stage="ppo", own=ppo)) == 0
    assert rlhf("stage=sweep", f"checkpoints={tmp_path}", "objective=[gold,kl]") == 0
    found = json.loads((tmp_path / "almanac" / "sweep" / "leaderboard.json").read_text())
    assert {row["stage"] for row in found["rows"]} == {"dpo", "ppo"}
    assert found["objective"] == {"gold": "maximize", "kl": "minimize"}
    starts = [
        Run.open(path.parent).manifest["metrics"]["start/gold"] for path in tmp_path.glob("almanac/*/stage*/run.json")
    ]
    assert len(starts) == 4
    assert len(set(starts)) == 1  # sampled and scored once
    assert rlhf("stage=sweep", f"checkpoints={tmp_path}") == 0
    capsys.readouterr()
    assert rlhf("stage=sweep", f"checkpoints={tmp_path}", "stage.runs=[nowhere]") == 1
    assert "stage.runs=nowhere holds no sweep" in capsys.readouterr().err


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_jobs_in_processes_of_their_own_do_the_same(
    chain: Path, tmp_path: Path, alone: Path, rlhf: Callable[..., int], launcher: str
) -> None:
    assert rlhf(*arguments(chain, tmp_path, "stage.beta=0.1,-1", f"launcher={launcher}")) == 1
    here, there = alone / "almanac" / "dpo", tmp_path / "almanac" / "dpo"
    assert [path.parent.name for path in members(there)] == ["stage.beta-0.1"]
    assert results(there / "stage.beta-0.1") == results(here / "stage.beta-0.1")
    assert len(board(there)["unfinished"]) == 1
    assert board(there)["rows"][0]["metrics"] == board(here)["rows"][0]["metrics"]
    assert Run.open(there / "stage.beta-0.1").manifest["settings"]["hardware"]["threads"] == 1


@optuna
def test_a_search_that_is_started_again_draws_the_same_trials_and_continues(
    chain: Path, tmp_path: Path, rlhf: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    def search(root: Path, trials: int) -> list[str]:
        space = (
            "sweep=dpo",
            "objective=[gold,kl]",
            f"hydra.sweeper.n_trials={trials}",
            "stage.trainer.num_train_epochs=1",
        )
        return arguments(chain, root, *space)

    assert rlhf(*search(tmp_path / "whole", 3)) == 0
    assert rlhf(*search(tmp_path / "parts", 2)) == 0
    parts = tmp_path / "parts" / "almanac" / "dpo"
    before = times(parts)
    assert len(before) == 2
    capsys.readouterr()
    assert rlhf(*search(tmp_path / "parts", 3)) == 0
    assert capsys.readouterr().out.count("up to date, skipped") == 2
    assert before.items() < times(parts).items()
    whole = tmp_path / "whole" / "almanac" / "dpo"
    assert [path.parent.name for path in members(whole)] == [path.parent.name for path in members(parts)]
    assert board(whole)["objective"] == {"gold": "maximize", "kl": "minimize"}
    assert list(board(whole)["rows"][0]["settings"]) == ["stage.beta", "stage.label_smoothing"]


@optuna
def test_a_trial_that_fails_shows_in_the_exit_code(
    chain: Path, tmp_path: Path, rlhf: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    space = ["sweep=dpo", "hydra.sweeper.n_trials=2", "hydra.sweeper.params={stage.beta: 'choice(-1,-2)'}"]
    assert rlhf(*arguments(chain, tmp_path, *space, "hydra/sweeper/sampler=random")) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert board(tmp_path / "almanac" / "dpo")["rows"] == []


def test_a_missing_package_is_reported_with_its_extra(
    tmp_path: Path, rlhf: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    if find_spec("hydra_plugins.hydra_ray_launcher") is not None:
        pytest.skip("the launcher that is missed here is installed")
    assert rlhf("-m", "stage=dpo", f"checkpoints={tmp_path}", "seed=1,2", "launcher=ray") == 1
    assert (
        "hydra/launcher=ray needs a package that is not installed: pip install 'rlhf[ray]'" in capsys.readouterr().err
    )


LONG = (
    "stage.trainer.max_steps=8", "stage.trainer.save_steps=2", "stage.trainer.logging_steps=2",
    "stage.trainer.per_device_train_batch_size=4", "stage.sample_prompts=0",
)  # fmt: skip


def killed_sweep(chain: Path, tmp_path: Path, kills: int, betas: str) -> None:
    """A sweep killed at random moments and started again ends, job by job, as one that was left alone."""
    cut, whole = ([*arguments(chain, tmp_path / name, f"stage.beta={betas}", own=LONG)] for name in ("cut", "whole"))
    folder = tmp_path / "cut" / "almanac" / "dpo"
    began = time.monotonic()
    process = start(["rlhf", *whole])
    process.join()
    assert process.exitcode == 0
    lasting = time.monotonic() - began
    moments, done = random.Random(kills), {}
    for _ in range(kills):
        process = start(["rlhf", *cut])
        while not (begun_again(folder, done) or process.exitcode is not None):
            time.sleep(0.01)
        time.sleep(moments.uniform(0, lasting / (kills + 1)))
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        assert done.items() <= times(folder).items()  # nothing that was finished is done again
        done = times(folder)
    process = start(["rlhf", *cut])
    process.join()
    assert process.exitcode == 0
    assert done.items() <= times(folder).items()
    other = tmp_path / "whole" / "almanac" / "dpo"
    assert [path.parent.name for path in members(folder)] == [path.parent.name for path in members(other)]
    for path in members(folder):
        assert results(path.parent) == results(other / path.parent.name)
    assert board(folder)["rows"][0]["metrics"] == board(other)["rows"][0]["metrics"]
    assert not list(folder.glob(".*.partial"))


def begun_again(folder: Path, done: dict[str, str]) -> bool:
    """Whether a job that was not finished before has a checkpoint, or has finished."""
    return len(times(folder)) > len(done) or any(folder.glob(".*.partial/resume/checkpoint-*/digests.json"))


def test_a_sweep_that_was_killed_continues_and_ends_as_an_uninterrupted_one(chain: Path, tmp_path: Path) -> None:
    killed_sweep(chain, tmp_path, 1, "0.1,0.3")


@pytest.mark.slow
def test_a_sweep_that_was_killed_three_times_ends_as_an_uninterrupted_one(chain: Path, tmp_path: Path) -> None:
    killed_sweep(chain, tmp_path, 3, "0.1,0.2,0.3,0.4")


def test_a_job_killed_between_its_end_and_its_place_is_moved_there(
    chain: Path, tmp_path: Path, rlhf: Callable[..., int]
) -> None:
    command = arguments(chain, tmp_path, "stage.beta=0.1,0.3")
    assert rlhf(*command) == 0
    folder = tmp_path / "almanac" / "dpo"
    before = times(folder)
    moved = folder / "stage.beta-0.1"
    moved.rename(folder / ".stage.beta-0.1.partial")
    record = record_path(moved)
    record.write_text(record.read_text().replace('"finished"', '"running"'))
    assert rlhf(*command) == 0
    assert times(folder) == before
    assert len(board(folder)["rows"]) == 2


def test_a_plain_run_beside_a_sweep_leaves_it_unchanged(chain: Path, tmp_path: Path, rlhf: Callable[..., int]) -> None:
    assert rlhf(*arguments(chain, tmp_path, "seed=1,2")) == 0
    folder = tmp_path / "almanac" / "dpo"
    [row] = board(folder)["rows"]
    assert (row["settings"], row["seeds"]) == ({}, [1, 2])
    assert rlhf(*arguments(chain, tmp_path)[1:]) == 0
    assert len(times(folder)) == 2
    assert record_path(folder / "seed-1").exists()
    assert board(folder)["rows"] == [row]


def test_the_keys_of_a_search_are_in_the_names_of_its_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sweep.SWEPT, "stage.beta,seed")
    assert sweep.varying(["stage=dpo", "stage.beta=0.1", "name=x", "seed=3"]) == {"stage.beta": "0.1", "seed": "3"}


def test_members_that_differ_in_a_list_can_be_named_in_a_command(
    chain: Path, tmp_path: Path, rlhf: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    """Also where their folders still have the names of before, with brackets."""
    command = arguments(chain, tmp_path, "stage.loss=[sigmoid],[sigmoid,ipo]")
    assert rlhf(*command) == 0
    folder = tmp_path / "almanac" / "dpo"
    assert [path.parent.name for path in members(folder)] == ["stage.loss-sigmoid", "stage.loss-sigmoid+ipo"]
    publish = shlex.split(board(folder)["publish"])[3:]
    assert publish[1].startswith(f"stage.run={folder}/stage.loss-sigmoid")
    assert rlhf(*publish, f"checkpoints={tmp_path}", "hardware=cpu", *TINY) == 0

    before = times(folder)
    for member in members(folder):
        old = {"stage.loss-sigmoid": "[sigmoid]", "stage.loss-sigmoid+ipo": "[sigmoid,ipo]"}[member.parent.name]
        record_path(member.parent).rename(record_path(folder / f"stage.loss-{old}"))
        member.parent.rename(folder / f"stage.loss-{old}")
    capsys.readouterr()
    assert rlhf(*command) == 0
    assert capsys.readouterr().out.count("up to date, skipped") == 2
    assert sorted(times(folder).values()) == sorted(before.values())
    old_name = f"stage.run={folder}/stage.loss-[sigmoid]"
    assert rlhf("stage=publish", old_name, "overwrite=true", f"checkpoints={tmp_path}", "hardware=cpu", *TINY) == 0
