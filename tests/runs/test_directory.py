import errno
import os
from pathlib import Path

import pytest

from rlhf.errors import RunError
from rlhf.runs.directory import LOCK, claim, move

REMEDY = r"mend that, or give checkpoints=<another directory>"


def test_a_file_where_directories_are_to_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "almanac" / "base"
    with pytest.raises(RunError, match=rf"{place} cannot be written \(Not a directory\): {REMEDY}"):
        claim(place.with_name(".base.partial"), place)


def test_a_file_where_the_run_is_to_be_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "base").write_text("a file of one's own")
    with pytest.raises(RunError, match="base is a file where a directory is to be: move it away"):
        claim(tmp_path / ".base.partial", tmp_path / "base")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_file_system_that_refuses_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Root may write everywhere, so that the refusal is played."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(RunError, match=rf"cannot be written \({os.strerror(code)}\): {REMEDY}"):
            claim(tmp_path / ".base.partial", tmp_path / "base")
    assert not list(tmp_path.iterdir())


def test_a_claimed_directory_is_not_claimed_again_and_is_moved_whole(tmp_path: Path) -> None:
    work, place = tmp_path / ".base.partial", tmp_path / "base"
    lock = claim(work, place)
    with pytest.raises(RunError, match="is being written by another process"):
        claim(work, place)
    (work / "run.json").write_text("{}")
    move(work, place)
    lock.close()
    assert [path.name for path in place.iterdir()] == ["run.json"]
    assert not work.exists()
    assert not (place / LOCK).exists()


def test_members_of_an_ensemble_go_with_their_run_and_those_of_a_sweep_stay(tmp_path: Path) -> None:
    work, place = tmp_path / ".reward.partial", tmp_path / "reward"
    for name in ("member-1", "member-2", "stage.margin-true"):
        (place / name).mkdir(parents=True)
        (place / name / "run.json").write_text("old")
    claim(work, place).close()
    (work / "member-1").mkdir()
    (work / "member-1" / "run.json").write_text("new")
    (work / "run.json").write_text("{}")
    move(work, place)
    assert sorted(path.name for path in place.iterdir()) == ["member-1", "run.json", "stage.margin-true"]
    assert (place / "member-1" / "run.json").read_text() == "new"
