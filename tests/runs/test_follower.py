"""A process that shares a run writes nothing of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import Settings
from rlhf.runs.follower import Follower, begin
from rlhf.runs.run import Run


def test_the_first_process_begins_and_the_others_follow(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, place = settings("base"), tmp_path / "base"
    run = begin(place, base)
    before = {path: path.read_bytes() for path in run.work.iterdir() if path.is_file()}
    monkeypatch.setattr("rlhf.hardware.ranks.is_main", lambda: False)
    other = begin(place, base)
    assert type(run) is Run
    assert type(other) is Follower
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
    assert {path: path.read_bytes() for path in run.work.iterdir() if path.is_file()} == before
    run.stop("failed", "for the test")


def test_it_has_the_run_where_the_first_one_puts_it(settings: Callable[..., Settings], tmp_path: Path) -> None:
    base, place = settings("base"), tmp_path / "base"
    other = Follower.of(place, base)
    other.finish({"loss": 1.0})
    assert other.work == place
    assert not place.exists()
