"""``execute``: what happens around a stage, whichever it is."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import Settings
from rlhf.errors import RunError
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
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: No space left on device")]
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
