"""``execute``: what happens around a stage, whichever it is."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config import Settings
from rlhf.errors import ConfigError, RunError
from rlhf.runs.directory import partial, saved
from rlhf.runs.run import Run
from rlhf.stages import execute


def test_a_finished_run_has_nothing_to_resume(
    chain: Path, beside_chain: Callable[..., Settings], tmp_path: Path
) -> None:
    metrics = execute(beside_chain("sft"), tmp_path / "sft")
    before = Run.open(tmp_path / "sft").manifest
    assert execute(beside_chain("sft", "resume=true"), tmp_path / "sft") == metrics
    assert Run.open(tmp_path / "sft").manifest == before
    with pytest.raises(RunError, match=r"is finished and cannot be resumed, seed was 0, now 1"):
        execute(beside_chain("sft", "resume=true", "seed=1"), tmp_path / "sft")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_sentence_and_a_second_try_works(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("rlhf.modeling.loading.save", full)
        with pytest.raises(RunError, match="the disk is full while writing"):
            execute(beside_chain("sft"), tmp_path / "sft")
    assert not (tmp_path / "sft").exists()
    execute(beside_chain("sft", "resume=true"), tmp_path / "sft")
    assert (tmp_path / "sft" / "run.json").exists()


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_disk_that_is_full_when_the_optimizer_is_saved(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """torch's writer fails twice, and the second time, when it closes the file, without a reason."""
    save, saving = torch.save, []

    def full(value: Any, path: str) -> None:
        saving.append(path)
        if "checkpoint-2" not in str(path):
            return save(value, path)
        try:
            raise RuntimeError("basic_ios::clear: iostream error")
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")

    with monkeypatch.context() as patched:
        patched.setattr("torch.save", full)
        with pytest.raises(RunError, match=f"the disk is full while writing {tmp_path}"):
            execute(beside_chain(stage, "stage.trainer.save_steps=1"), tmp_path / stage)
    assert [path for path in saving if "checkpoint-2" in str(path)]
    assert saved(partial(tmp_path / stage)) == "checkpoint-1"
    execute(beside_chain(stage, "stage.trainer.save_steps=1", "resume=true"), tmp_path / stage)
    assert Run.open(tmp_path / stage).resumed


@pytest.mark.parametrize(
    ("stage", "overrides"),
    [
        ("ppo", ("stage.rewards={mine: {function: nope:score}}",)),
        ("ppo", ("stage.gold={function: nope:score}",)),
        ("compare", ("judge=function", "judge.function=nope:score", "stage.models={sft: CHAIN/sft}")),
    ],
)
def test_a_function_that_cannot_be_imported_is_reported_before_data_are_read(
    chain: Path, beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str,
    overrides: tuple[str, ...],
) -> None:  # fmt: skip
    reads = {"ppo": "rlhf.training.loop.read_splits", "compare": "rlhf.stages.compare.load"}
    monkeypatch.setattr(reads[stage], None)
    given = [item.replace("CHAIN", f"{chain}/almanac") for item in overrides]
    with pytest.raises(ConfigError, match="the reward 'nope:score' cannot be imported: No module named 'nope'"):
        execute(beside_chain(stage, *given), tmp_path / stage)
    assert not (tmp_path / stage).exists()
