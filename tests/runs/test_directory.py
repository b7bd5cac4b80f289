import errno
import json
import os
from pathlib import Path

import pytest

from rlhf.errors import RunError
from rlhf.runs.directory import LOCK, OLD, claim, foreign, listed, move, partial, saved
from tests.conftest import manifest

REMEDY = r"fix this, or set checkpoints=<another directory>"


def test_a_file_where_directories_are_to_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "almanac" / "base"
    with pytest.raises(RunError, match=rf"{place} cannot be written \(Not a directory\): {REMEDY}"):
        claim(place.with_name(".base.partial"), place)


def test_a_file_in_place_of_the_run_is_reported_before_training(tmp_path: Path) -> None:
    (tmp_path / "base").write_text("a file of one's own")
    with pytest.raises(RunError, match="base is a file, not a directory: move it away"):
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
    (place / "run.json").write_text('{"files": ["member-1", "member-2"]}')
    claim(work, place).close()
    (work / "member-1").mkdir()
    (work / "member-1" / "run.json").write_text("new")
    (work / "run.json").write_text("{}")
    move(work, place)
    assert sorted(path.name for path in place.iterdir()) == ["member-1", "run.json", "stage.margin-true"]
    assert (place / "member-1" / "run.json").read_text() == "new"


def written(folder: Path, **files: str) -> None:
    """Write files, and a run.json that lists them."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "run.json").write_text(json.dumps(manifest("sft", files=listed(folder))))


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != "run.json"}


def test_only_what_the_old_run_wrote_is_deleted(tmp_path: Path) -> None:
    place, outside = tmp_path / "sft", tmp_path / "outside"
    outside.write_text("elsewhere")
    written(place, weights="old", report="old")
    names = ["../outside", "..", ".", *listed(place)]
    (place / "run.json").write_text(json.dumps(manifest("sft", files=names)))
    (place / "thesis").write_text("mine")
    written(partial(place), weights="new")
    move(partial(place), place)
    assert texts(place) == {"weights": "new", "thesis": "mine"}
    assert outside.read_text() == "elsewhere"


def test_of_a_run_that_lists_no_files_what_runs_are_known_to_write_is_deleted(tmp_path: Path) -> None:
    place = tmp_path / "sft"
    written(place, **{"metrics.jsonl": "old", "thesis": "mine"})
    (place / "run.json").write_text('{"status": "finished"}')
    written(partial(place), weights="new")
    move(partial(place), place)
    assert texts(place) == {"weights": "new", "thesis": "mine"}


def test_a_name_that_is_taken_is_not_overwritten(tmp_path: Path) -> None:
    place = tmp_path / "sft"
    written(place, weights="old")
    (place / "report").write_text("mine")
    written(partial(place), weights="new", report="new")
    with pytest.raises(RunError, match=r"sft/report was not written by a run .*: move it away, then resume=true"):
        move(partial(place), place)
    assert (place / "report").read_text() == "mine"
    (place / "report").unlink()
    move(partial(place), place)
    assert texts(place) == {"weights": "new", "report": "new"}


def test_a_kill_at_any_point_of_the_move_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for steps in range(12):
        place = tmp_path / str(steps) / "sft"
        written(place, weights="old", report="old", figure="old")
        written(partial(place), weights="new", report="new", samples="new")
        done = []

        def some(source: Path, target: Path, last: int = steps, done: list = done, replace=os.replace) -> None:
            if len(done) == last:
                raise KeyboardInterrupt
            done.append(replace(source, target))

        with monkeypatch.context() as patched:
            patched.setattr("rlhf.runs.directory.os.replace", some)
            patched.setattr("rlhf.runs.directory.shutil.rmtree", killed)
            with pytest.raises(KeyboardInterrupt):
                move(partial(place), place)
        assert foreign(place) is None
        if (partial(place) / "run.json").exists():
            assert saved(partial(place)) == "all of its results"
            move(partial(place), place)
        assert texts(place) == {"weights": "new", "report": "new", "samples": "new"}
        assert (place / "run.json").exists()
        assert not partial(place).exists() or all(path.name.startswith(OLD) for path in partial(place).iterdir())


@pytest.mark.parametrize("kept", ["thesis.txt", "model/config.json", "notes/thesis.txt"])
def test_what_no_run_wrote_is_found(tmp_path: Path, kept: str) -> None:
    place = tmp_path / "sft"
    written(place / "stage.beta-0.1", weights="of a member of a sweep")
    written(place / ".stage.beta-0.3.partial", weights="of another")
    (place / ".jobs").mkdir()
    (place / "made by Hydra").mkdir()
    assert foreign(place) is None
    (place / kept).parent.mkdir(exist_ok=True)
    (place / kept).touch()
    assert foreign(place) == Path(kept).parts[0]
    (place / "run.json").write_text("{}")
    assert foreign(place) is None


def test_a_folder_that_merely_has_the_name_of_an_unfinished_run_is_found(tmp_path: Path) -> None:
    work = partial(tmp_path / "sft")
    work.mkdir()
    assert foreign(tmp_path / "sft") is None
    (work / "thesis.txt").touch()
    assert foreign(tmp_path / "sft") == "../.sft.partial"
    (work / LOCK).touch()
    assert foreign(tmp_path / "sft") is None


@pytest.mark.parametrize(
    ("files", "newest"),
    [
        ((), None),
        (("checkpoint-20/model.safetensors", "README.md", "member-0/checkpoint-2/model.safetensors"), None),
        (("checkpoint-20/digests.json", "checkpoint-100/digests.json", "checkpoint-120/x"), "checkpoint-100"),
        (("update-3/digests.json", ".update-4/digests.json"), "update-3"),
        (("member-0.json", "member-1/checkpoint-2/digests.json"), "member-1/checkpoint-2"),
        (("member-0.json",), "member-0"),
        (("answers.jsonl",), "answers.jsonl"),
    ],
)
def test_the_newest_thing_that_a_run_is_resumed_from(tmp_path: Path, files: tuple, newest: str | None) -> None:
    for name in files:
        (tmp_path / "resume" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "resume" / name).touch()
    assert saved(tmp_path) == newest


@pytest.mark.parametrize(
    ("name", "status", "found"),
    [
        ("sample", "finished", "sample"),
        (".sample.partial", "finished", "sample"),
        (".sample.partial", "running", None),
        ("round_2/sample", "finished", "round_2/sample"),
        ("member-1", "finished", None),  # which notes its end itself
        ("bundles/rlhf--sft", "finished", None),
    ],
)
def test_a_run_inside_an_interrupted_run_is_continued(
    tmp_path: Path, name: str, status: str, found: str | None
) -> None:
    for place, written in ((tmp_path, "running"), (tmp_path / name, status)):
        place.mkdir(parents=True, exist_ok=True)
        (place / "run.json").write_text(json.dumps(manifest("raft", status=written)))
    assert saved(tmp_path) == found
