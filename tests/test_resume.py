"""Killed at any point, a stage is resumed and ends with the bytes of a run that nobody touched."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from transformers import TrainerState

from rlhf.cli import main
from rlhf.config import Settings
from rlhf.errors import RunError
from rlhf.runs.directory import partial
from rlhf.runs.run import Run
from rlhf.stages import execute
from rlhf.storage.manifest import read_manifest
from rlhf.training.exact_resume import Keeper
from tests.conftest import tiny_overrides

# A server that has imported everything forks the processes that are killed: each would need seconds to begin.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([f"rlhf.stages.{stage}" for stage in ("sft", "reward", "dpo", "kto", "ppo", "raft")])

# Intervals of logging and saving that are never at one: what is averaged when the kill comes belongs to the result.
TRAINER = (
    "stage.trainer.max_steps=14",
    "stage.trainer.logging_steps=4",
    "stage.trainer.save_steps=3",
    "stage.trainer.learning_rate=0.01",
)
LONG = {
    "sft": TRAINER,
    "reward": TRAINER,
    "dpo": TRAINER,
    "kto": TRAINER,
    "ppo": (
        "stage.updates=14",
        "stage.save_every=3",
        "stage.log_every=2",
        "stage.sample_every=4",
        "stage.learning_rate=0.01",
        "stage.critic_learning_rate=0.01",
        "stage.sentinel.window=3",
        "stage.sentinel.grace=1",
        "stage.sentinel.kl_max=0.01",
    ),
    "raft": TRAINER,
    "merge": (),
}
DISTILLED = (  # all of PPO's other sources of gradients and weights at once
    "stage.reward=null",
    "stage.teacher={chain}/almanac/base",
    "stage.ptx_coef=0.5",
    "stage.ptx_block_length=16",
    "stage.ema=0.5",
)
FILES = ("metrics.jsonl", "samples.jsonl", "sentinel.jsonl")


def arguments(stage: str, chain: Path, root: Path, *more: str) -> list[str]:
    parents = {
        "sft": [f"model.pretrained={chain}/almanac/base"],
        "ppo": [f"stage.policy={chain}/almanac/sft", f"stage.reward={chain}/almanac/reward"],
        "merge": [f"stage.models=[{chain}/almanac/base,{chain}/almanac/sft]"],
    }
    parents["raft"] = parents["ppo"]
    own = parents.get(stage, [f"stage.policy={chain}/almanac/sft"])
    return ["rlhf", *tiny_overrides(stage, root), *own, *LONG[stage], *(one.format(chain=chain) for one in more)]


def command(argv: list[str]) -> None:
    """Run ``python -m rlhf ...`` in a separate process."""
    sys.argv = argv
    main.main()


def start(argv: list[str]) -> multiprocessing.Process:
    process = CONTEXT.Process(target=command, args=(argv,))
    process.start()
    return process


def results(directory: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in (directory / "model").glob("*.safetensors")}
    found |= {name: (directory / name).read_bytes() for name in FILES if (directory / name).exists()}
    return found | {"metrics": json.dumps(Run.open(directory).manifest["metrics"]).encode()}


def begun(work: Path, process: multiprocessing.Process) -> bool:
    """Whether the first checkpoint has been written, by the stage or by the first run inside it."""
    written = (any(place.glob("resume/[cu]*/digests.json")) for place in (work, work / ".policy.partial"))
    return process.exitcode is not None or any(written)


@pytest.mark.parametrize("name", ["sft", "reward", "dpo", "simpo", "kto", "ppo", "distilled", "raft"])
def test_killed_at_any_point_it_ends_with_the_same_bytes(chain: Path, tmp_path: Path, name: str) -> None:
    variants = {"distilled": ("ppo", DISTILLED), "simpo": ("dpo", ("stage.loss=[simpo]",))}
    stage, options = variants.get(name, (name, ()))
    whole = tmp_path / "whole" / "almanac" / stage
    process = start(arguments(stage, chain, tmp_path / "whole", *options))
    while not begun(whole.parent / f".{stage}.partial", process):
        time.sleep(0.01)
    first = time.monotonic()
    process.join()
    assert process.exitcode == 0
    lasting = time.monotonic() - first

    delays, killed = random.Random(stage), 0
    cut = tmp_path / "cut" / "almanac" / stage
    work = cut.parent / f".{stage}.partial"
    for attempt in range(3 if name == "ppo" else 1):  # a run that is resumed can be killed again
        process = start(arguments(stage, chain, tmp_path / "cut", *options, *(["resume=true"] if attempt else [])))
        while not begun(work, process):
            time.sleep(0.01)
        time.sleep(delays.uniform(0, lasting / 2))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    if not cut.exists():
        process = start(arguments(stage, chain, tmp_path / "cut", *options, "resume=true"))
        process.join()
        assert process.exitcode == 0
    assert results(cut) == results(whole)
    assert killed


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_resumed_in_any_epoch_it_sees_the_rows_in_the_same_order(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """Six steps are an epoch: 3 and 9 are within the first and the second one, 6 and 12 are ends of epochs."""
    settings = beside_chain("sft", *LONG["sft"], f"stage.trainer.train_sampling_strategy={strategy}")
    execute(settings, tmp_path / "whole")
    save = Keeper.on_save
    for saved in (3, 6, 9, 12):

        def stop(self: Keeper, args: Any, state: TrainerState, *others: Any, saved: int = saved, **named: Any) -> None:
            save(self, args, state, *others, **named)
            if state.global_step == saved:
                gone()

        with monkeypatch.context() as patched:
            patched.setattr(Keeper, "on_save", stop)
            with pytest.raises(ConnectionAbortedError):
                execute(settings, tmp_path / f"cut-{saved}")
        execute(replace(settings, resume=True), tmp_path / f"cut-{saved}")
        assert results(tmp_path / f"cut-{saved}") == results(tmp_path / "whole"), saved


@pytest.fixture
def interrupted(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Callable[..., Settings]]:
    """A run of a stage that ended as if by a kill, its checkpoints left in ``.<stage>.partial/resume``."""

    def of(stage: str) -> Callable[..., Settings]:
        def settings(*more: str) -> Settings:
            return beside_chain(stage, *LONG[stage], *more)

        with monkeypatch.context() as patched:
            patched.setattr("rlhf.modeling.loading.save", gone)
            with pytest.raises(ConnectionAbortedError):
                execute(settings(), tmp_path / stage)
        return settings

    return of


def gone(*_: object) -> None:
    raise ConnectionAbortedError


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("[cu]*-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def tear(place: Path) -> str:
    """Cut the largest file short, as a crash may."""
    largest = max((path for path in place.iterdir() if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    return largest.name


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_torn_checkpoint_is_passed_over_with_a_line_and_changes_nothing(
    interrupted: Callable, tmp_path: Path, stage: str, capsys: pytest.CaptureFixture
) -> None:
    settings = interrupted(stage)
    folder = tmp_path / f".{stage}.partial" / "resume"
    before, last = checkpoints(folder)
    untouched = tmp_path / "untouched"
    shutil.copytree(folder.parent, untouched.parent / f".{untouched.name}.partial")
    execute(settings("resume=true"), untouched)
    torn = tear(last)
    capsys.readouterr()
    execute(settings("resume=true"), tmp_path / stage)
    told = f"{stage}: {last.name} is corrupted ({torn} does not match its checksum), so {before.name} is used"
    assert told in capsys.readouterr().out.splitlines()
    assert results(tmp_path / stage) == results(untouched)


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_run_without_an_intact_checkpoint_is_unchanged(interrupted: Callable, tmp_path: Path, stage: str) -> None:
    settings = interrupted(stage)
    folder = tmp_path / f".{stage}.partial" / "resume"
    for place in checkpoints(folder):
        tear(place)
    with pytest.raises(RunError, match="no checkpoint in .* is intact .*: start again with overwrite=true"):
        execute(settings("resume=true"), tmp_path / stage)
    with pytest.raises(RunError, match="an interrupted run with .*-.* is here"):
        execute(settings(), tmp_path / stage)
    assert len(checkpoints(folder)) == 2
    execute(settings("overwrite=true"), tmp_path / stage)
    assert (tmp_path / stage / "run.json").exists()


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_killed_before_the_first_checkpoint_it_starts_from_the_beginning(
    interrupted: Callable, tmp_path: Path, stage: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = interrupted(stage)
    for place in checkpoints(tmp_path / f".{stage}.partial" / "resume"):
        (place / "digests.json").unlink()
    # transformers sorts checkpoints by number if the modification times are equal.
    monkeypatch.setattr("transformers.trainer_utils.os.path.getmtime", lambda path: 0.0)
    execute(settings("resume=true"), tmp_path / stage)
    assert "so it starts from the beginning" in capsys.readouterr().out


END = "rlhf.runs.interrupted.move"  # of a finished run into its place


def killed_in(argv: list[str], function: str, call: int) -> None:
    """``python -m rlhf ...`` that is killed when it calls a function, the first or a later time."""
    original, calls = resolve_name(function), []

    def counted(*given: Any, **named: Any) -> Any:
        calls.append(True)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given, **named)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(function, counted)
        command(argv)


def kill_in(argv: list[str], function: str, call: int = 1, *, target: Callable[..., None] = killed_in) -> None:
    process = CONTEXT.Process(target=target, args=(argv, function, call))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_merge_has_no_checkpoint_and_starts_again(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name, more in {"whole": [], "cut": ["resume=true"]}.items():
        argv = arguments("merge", chain, tmp_path / name)
        if more:
            kill_in(argv, "rlhf.stages.merge.merge")
            assert partial(tmp_path / name / "almanac" / "merge").exists()
        monkeypatch.setattr("sys.argv", [*argv, *more])
        main.main()
    assert "has no checkpoint to resume from, so it starts from the beginning" in capsys.readouterr().out
    found = [tmp_path / name / "almanac" / "merge" for name in ("whole", "cut")]
    assert results(found[0]) == results(found[1])
    assert not partial(found[1]).exists()


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "merge"])
def test_killed_between_its_end_and_its_place_it_is_moved_and_not_trained_again(
    chain: Path, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    own = ["adapter=lora", "stage.ensemble=2"] if stage == "reward" else []
    argv = arguments(stage, chain, tmp_path, *own)
    kill_in(argv, END)
    place = tmp_path / "almanac" / stage
    left = read_manifest(partial(place))
    monkeypatch.setattr("rlhf.stages._prepare", gone)
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit):
        main.main()
    assert "an interrupted run with all of its results is here: resume=true" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*argv, "resume=true"])
    main.main()
    assert "was finished before it was killed" in " ".join(capsys.readouterr().out.split())
    assert Run.open(place).manifest == left
    assert sorted(left["files"]) == sorted(path.name for path in place.iterdir() if path.name != "run.json")
    assert not partial(place).exists()
