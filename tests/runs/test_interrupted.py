from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import Settings
from rlhf.errors import RunError
from rlhf.runs.directory import partial
from rlhf.runs.identity import Origin
from rlhf.runs.interrupted import check_start, put_in_place, resumable, resuming
from rlhf.runs.run import Run
from tests.runs.test_run import CHECKPOINT

Configure = Callable[..., Settings]


def stopped(place: Path, settings: Settings) -> None:
    """Leave an interrupted run with a checkpoint."""
    run = Run.start(place, settings)
    (run.scratch / CHECKPOINT).parent.mkdir(parents=True)
    (run.scratch / CHECKPOINT).write_text("state")
    run.stop("interrupted", "for the test")


def start(place: Path, settings: Settings) -> bool:
    return check_start(place, settings, Origin.of(settings).content)


def test_a_new_place_starts_and_an_interrupted_run_continues(settings: Configure, tmp_path: Path) -> None:
    place = tmp_path / "base"
    assert not start(place, settings("base"))
    assert not start(place, settings("base", "resume=true"))
    stopped(place, settings("base"))
    assert start(place, settings("base", "resume=true"))
    assert not start(place, settings("base", "overwrite=true"))
    with pytest.raises(RunError, match="an interrupted run with checkpoint-424 is here: resume=true continues it"):
        start(place, settings("base"))


def test_only_the_same_content_is_resumable(settings: Configure, tmp_path: Path) -> None:
    place = tmp_path / "base"
    same, other = (Origin.of(settings("base", f"seed={seed}")).content for seed in (0, 1))
    assert not resumable(place, same)
    stopped(place, settings("base"))
    assert resumable(place, same)
    assert not resumable(place, other)


def test_the_command_that_continues_is_the_one_that_was_given(settings: Configure) -> None:
    given = ["name=a", "stage.trainer.max_steps=9", "overwrite=true", "resume=false"]
    assert resuming(settings("base"), given) == "python -m rlhf stage=base name=a stage.trainer.max_steps=9 resume=true"


def test_checkpoints_go_before_the_run_is_in_its_place(settings: Configure, tmp_path: Path) -> None:
    place = tmp_path / "base"
    stopped(place, settings("base"))
    work = partial(place)
    put_in_place(work, place)
    assert not work.exists()
    assert sorted(path.name for path in place.iterdir()) == ["metrics.jsonl", "run.json"]
