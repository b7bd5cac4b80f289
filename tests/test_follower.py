"""A process that shares a run writes nothing of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import Settings
from rlhf.follower import Follower, begin
from rlhf.run import Run


def test_the_first_process_begins_and_the_others_follow(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, place = beside_chain("sft"), tmp_path / "sft"
    run = begin(place, settings)
    before = {path: path.read_bytes() for path in run.work.iterdir()}
    monkeypatch.setattr("rlhf.world.is_main", lambda: False)
    other = begin(place, settings)
    assert type(run) is Run
    assert type(other) is Follower
    assert (other.work, other.scratch, other.stage) == (run.work, run.scratch, "sft")
    assert other["policy"].digest == run["policy"].digest
    other.manifest = run.manifest
    assert not other.resumed
    other.log({"loss": 1.0}, 1)
    other.record_data("demonstrations", "train", None)
    other.record_omission("demonstrations", "train", 3, "too long")
    other.record_tokenizer(None)
    other.record_output(place)
    other.record_diagnoses([{"step": 1}])
    other.record_member(place, {})
    other.rewind(0)
    other.write()
    other.stop("failed", "for the test")
    assert {path: path.read_bytes() for path in run.work.iterdir()} == before


def test_it_has_the_run_where_the_first_one_puts_it(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    settings, place = beside_chain("sft"), tmp_path / "sft"
    other = Follower.of(place, settings)
    other.finish({"loss": 1.0})
    assert other.work == place
    assert not place.exists()
