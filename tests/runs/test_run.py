import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.cli.progression import stale
from rlhf.config import Settings
from rlhf.errors import LineageError, RunError
from rlhf.runs.directory import partial, saved
from rlhf.runs.endings import recorded
from rlhf.runs.interrupted import settle
from rlhf.runs.run import Run, runs
from rlhf.storage.manifest import read_manifest

CHECKPOINT = "checkpoint-424/digests.json"


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_a_run_appears_when_it_is_finished(settings: Callable[..., Settings], tmp_path: Path) -> None:
    run = Run.start(tmp_path / "x" / "base", settings("base"))
    run.model.mkdir()
    (run.model / "model.safetensors").write_bytes(b"weights")
    run.log({"train/loss": 1.5}, 1)
    assert not (tmp_path / "x" / "base").exists()
    run.finish({"eval/loss": 1.0})
    assert files(tmp_path / "x") == {"base/run.json", "base/metrics.jsonl", "base/model/model.safetensors"}
    manifest = Run.open(tmp_path / "x" / "base").manifest
    assert manifest["status"] == "finished"
    assert manifest["metrics"] == {"eval/loss": 1.0}
    assert len(manifest["weights"]) == 64
    assert (tmp_path / "x" / "base" / "metrics.jsonl").read_text() == '{"step": 1, "train/loss": 1.5}\n'


def test_a_finished_run_is_replaced_when_asked_only(settings: Callable[..., Settings], tmp_path: Path) -> None:
    place = tmp_path / "base"
    Run.start(place, settings("base")).finish({"n": 1.0})
    with pytest.raises(RunError, match="has a finished run of stage=base: overwrite=true replaces it"):
        Run.start(place, settings("base"))
    (place / "thesis.txt").write_text("mine")
    Run.start(place, settings("base", "overwrite=true")).finish({"n": 2.0})
    assert Run.open(place).manifest["metrics"] == {"n": 2.0}
    assert (place / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("overrides", [(), ("overwrite=true",), ("resume=true",)])
def test_files_that_no_run_wrote_are_refused_at_the_start(
    settings: Callable[..., Settings], tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match=r"base contains thesis.txt, which no run wrote: move it away, or set name="):
        Run.start(tmp_path / "base", settings("base", *overrides))
    assert files(tmp_path) == {"base/thesis.txt"}


def test_members_of_a_sweep_survive_the_run_around_them(settings: Callable[..., Settings], tmp_path: Path) -> None:
    Run.start(tmp_path / "dpo" / "beta-1", settings("base")).finish({"n": 1.0})
    Run.start(tmp_path / "dpo", settings("base")).finish({"n": 2.0})
    Run.start(tmp_path / "dpo", settings("base", "overwrite=true")).finish({"n": 3.0})
    assert sorted(one.manifest["metrics"]["n"] for one in runs(tmp_path)) == [1.0, 3.0]


def test_two_processes_cannot_write_one_run(settings: Callable[..., Settings], tmp_path: Path) -> None:
    run = Run.start(tmp_path / "base", settings("base"))
    with pytest.raises(RunError, match="is being written by another process"):
        Run.start(tmp_path / "base", settings("base"))
    run.stop("failed", "for the test")
    Run.start(tmp_path / "base", settings("base")).finish({})


def test_an_interruption_leaves_what_can_be_resumed(settings: Callable[..., Settings], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _interrupted(Run.start(tmp_path / "base", settings("base")))
    assert read_manifest(tmp_path / ".base.partial")["status"] == "interrupted"
    with pytest.raises(RunError, match="cannot be resumed, seed was 0, now 1: overwrite=true instead of resume=true"):
        Run.start(tmp_path / "base", settings("base", "resume=true", "seed=1"))
    resumed = Run.start(tmp_path / "base", settings("base", "resume=true"))
    assert resumed.resumed
    assert (resumed.scratch / CHECKPOINT).read_text() == "state"
    resumed.stop("interrupted", "again")


def test_an_interrupted_run_is_thrown_away_when_asked_only(settings: Callable[..., Settings], tmp_path: Path) -> None:
    place = tmp_path / "base"
    with pytest.raises(KeyboardInterrupt):
        _interrupted(Run.start(place, settings("base")))
    before = files(tmp_path)
    given = ["name=lost", "overwrite=false", "stage.block_length=8"]
    with pytest.raises(RunError) as refusal:
        Run.start(place, settings("base"), given)
    assert str(refusal.value) == (
        f"{place}: an interrupted run with checkpoint-424 is here: resume=true continues it (python -m rlhf stage=base "
        "name=lost stage.block_length=8 resume=true), overwrite=true starts again"
    )
    with pytest.raises(
        RunError, match=r"run with other settings \(seed was 0, now 1\) with checkpoint-424 is here: name="
    ):
        Run.start(place, settings("base", "seed=1"))
    assert files(tmp_path) == before
    fresh = Run.start(place, settings("base", "overwrite=true"))
    assert not fresh.resumed
    assert not fresh.scratch.exists()
    with pytest.raises(RunError, match="is being written by another process"):
        Run.start(place, settings("base"))
    fresh.finish({})


@pytest.mark.parametrize("overrides", [(), ("resume=true",)])
def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(
    settings: Callable[..., Settings], tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    killed = Run.start(tmp_path / "base", settings("base", "seed=1"))
    (killed.scratch / "checkpoint-2").mkdir(parents=True)  # not written to its end
    (killed.work / "bundles").mkdir()
    killed._close()
    run = Run.start(tmp_path / "base", settings("base", *overrides))
    assert not run.resumed
    assert not run.scratch.exists()
    assert not (run.work / "bundles").exists()
    run.finish({})


def test_checkpoints_are_there_until_the_run_is_finished(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "base"
    with pytest.raises(KeyboardInterrupt):
        _interrupted(Run.start(place, settings("base")))
    for point in ("rlhf.runs.run.digests.weights_digest", "rlhf.runs.run.Run.write", "rlhf.runs.interrupted.move"):
        run = Run.start(place, settings("base", "resume=true"))
        with monkeypatch.context() as patched:
            patched.setattr(point, _killed)
            with pytest.raises(SystemExit):
                run.finish({"n": 1.0})
        run._close()
        assert saved(run.work) == ("all of its results" if point.endswith("move") else "checkpoint-424")
    with pytest.raises(RunError, match="an interrupted run with all of its results is here: resume=true continues"):
        Run.start(place, settings("base"))
    settle(place)
    assert Run.open(place).manifest["metrics"] == {"n": 1.0}
    assert not partial(place).exists()


def _killed(*_: object) -> None:
    raise SystemExit


def test_an_interrupted_replacement_is_resumed_and_replaces(settings: Callable[..., Settings], tmp_path: Path) -> None:
    place = tmp_path / "base"
    Run.start(place, settings("base")).finish({"n": 1.0})
    with pytest.raises(KeyboardInterrupt):
        _interrupted(Run.start(place, settings("base", "seed=1", "overwrite=true")))
    assert Run.open(place).manifest["metrics"] == {"n": 1.0}
    resumed = Run.start(place, settings("base", "seed=1", "resume=true"))
    assert (resumed.scratch / CHECKPOINT).read_text() == "state"
    resumed.finish({"n": 2.0})
    assert Run.open(place).manifest["metrics"] == {"n": 2.0}


def _interrupted(run: Run) -> None:
    with recorded(run):
        (run.scratch / CHECKPOINT).parent.mkdir(parents=True)
        (run.scratch / CHECKPOINT).write_text("state")
        run.log({"n": 1.0}, 1)
        raise KeyboardInterrupt


def test_a_missing_run_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(LineageError, match="has no finished run"):
        Run.open(tmp_path / "nowhere")


def test_no_secret_reaches_the_manifest(settings: Callable[..., Settings], tmp_path: Path) -> None:
    secret = "hf_abcdefghijklmnopqrstuv"
    overrides = [f"+stage.trainer.run_name={secret}"]
    run = Run.start(tmp_path / "base", settings("base", *overrides), overrides)
    run.finish({})
    assert secret not in (tmp_path / "base" / "run.json").read_text()


def test_a_run_with_a_secret_is_resumed_and_up_to_date(settings: Callable[..., Settings], tmp_path: Path) -> None:
    own = "+stage.trainer.run_name=hf_abcdefghijklmnopqrstuv"
    place = tmp_path / "base"
    with pytest.raises(KeyboardInterrupt):
        _interrupted(Run.start(place, settings("base", own)))
    resumed = Run.start(place, settings("base", own, "resume=true"))
    assert resumed.resumed
    resumed.finish({})
    assert stale(place, settings("base", own))[1] is None
    assert stale(place, settings("base", own, "seed=1"))[1] == "seed was 0, now 1"


def test_checkpoints_that_cannot_be_written_are_told(settings: Callable[..., Settings], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "almanac" / "base"
    with pytest.raises(RunError, match=f"{place} cannot be written .*: fix this, or set checkpoints="):
        Run.start(place, settings("base"))


def test_a_disk_that_is_full_at_the_start_leaves_nothing_new(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def start(place: Path, *overrides: str) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("rlhf.runs.run.write_json", full)
            with pytest.raises(RunError, match=r"cannot be written \(No space left on device\)"):
                Run.start(place, settings("base", *overrides))

    start(tmp_path / "base")
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        _interrupted(Run.start(tmp_path / "base", settings("base")))
    start(tmp_path / "base", "resume=true")  # what can be resumed is still there, and nobody holds it
    resumed = Run.start(tmp_path / "base", settings("base", "resume=true"))
    assert (resumed.scratch / CHECKPOINT).read_text() == "state"
    resumed.finish({})


def test_of_several_processes_the_first_writes(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, place = settings("base"), tmp_path / "base"
    run = Run.start(place, base)
    before = {path: path.read_bytes() for path in run.work.iterdir() if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr("rlhf.hardware.ranks.is_main", lambda: False)
        other = Run.start(place, base)
    assert (other.work, other.scratch, other.stage) == (run.work, run.scratch, "base")
    assert other.parents == run.parents
    other.manifest = run.manifest
    assert not other.resumed
    other.log({"loss": 1.0}, 1)
    other.record_data("text", "train", None)
    other.record_omission("text", "train", 3, "too long")
    other.record_tokenizer(None)
    other.record_output(place)
    other.record_diagnoses([{"step": 1}])
    other.record_member(place, {})
    other.rewind(0)
    other.write()
    other.stop("failed", "for the test")
    other.finish({"loss": 1.0})
    assert other.work == place  # where the first one puts it
    assert not place.exists()
    assert {path: path.read_bytes() for path in run.work.iterdir() if path.is_file()} == before
    run.stop("failed", "for the test")
