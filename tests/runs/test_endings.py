from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import Settings
from rlhf.errors import TrainingError
from rlhf.runs.endings import note_end, recorded
from rlhf.runs.run import Run
from rlhf.storage.manifest import read_manifest


def test_a_failure_leaves_nothing_without_a_checkpoint(settings: Callable[..., Settings], tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), recorded(Run.start(tmp_path / "base", settings("base"))):
        raise ZeroDivisionError
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_run_with_a_checkpoint_has_the_reason_and_another_process_can_note_it(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    run = Run.start(tmp_path / "base", settings("base"))
    (run.scratch / "checkpoint-1").mkdir(parents=True)
    (run.scratch / "checkpoint-1" / "digests.json").write_text("{}")
    with pytest.raises(TrainingError), recorded(run):
        raise TrainingError("the loss is nan")
    manifest = read_manifest(tmp_path / ".base.partial")
    assert (manifest["status"], manifest["reason"]) == ("failed", "TrainingError: the loss is nan")
    note_end(tmp_path / "base", "RunError: rank 1 died")
    assert read_manifest(tmp_path / ".base.partial")["reason"] == "RunError: rank 1 died"
    note_end(tmp_path / "none", "RunError: rank 1 died")
    assert not (tmp_path / ".none.partial").exists()
