"""Jobs on disk, for each way in which a job can end."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import LineageError
from rlhf.evaluation.sweeps.jobs import (
    FAILED,
    FINISHED,
    LEFT,
    RUNNING,
    Job,
    collect,
    digest,
    record_path,
    short,
    write_record,
)
from rlhf.storage.json_files import write_json
from tests.conftest import manifest


def member(
    folder: Path,
    stage: str = "dpo",
    *,
    seed: int = 0,
    status: str = FINISHED,
    reason: str | None = None,
    metrics: dict[str, float] | None = None,
    content: dict[str, Any] | None = None,
    **swept: str,
) -> Path:
    """Write a job of a sweep: its record, and a run.json if it has metrics."""
    keys = {key.replace("__", "."): value for key, value in swept.items()} | {"seed": str(seed)}
    directory = folder / "_".join(f"{key}-{value}" for key, value in keys.items())
    content = {"seed": seed, "stage.name": stage} | (content or {}) | {k: v for k, v in keys.items() if k != "seed"}
    if metrics is not None:
        directory.mkdir(parents=True)
        write_json(directory / "run.json", manifest(stage, seed=seed, metrics=metrics, content=content))
    record = {"sweep": "x", "stage": stage, "seed": seed, "swept": keys, "status": status, "reason": reason}
    write_record(directory, record | {"content": digest(content)})
    return directory


def test_each_way_in_which_a_job_can_end(tmp_path: Path) -> None:
    member(tmp_path, seed=1, metrics={"gold": 1.0})
    member(tmp_path, seed=2, status=FAILED, reason="no luck")
    member(tmp_path, seed=3, status=RUNNING)
    member(tmp_path, seed=4, status=RUNNING, metrics={"gold": 2.0})  # killed after its run was complete
    old = member(tmp_path, seed=5, status=RUNNING, metrics={"gold": 3.0})  # killed while it was repeated
    record = json.loads(record_path(old).read_text())
    write_record(old, record | {"content": "another"})
    gone = member(tmp_path, seed=6, metrics={"gold": 4.0})
    (gone / "run.json").unlink()
    found = {job.seed: job for job in collect([str(tmp_path)])}
    assert [found[seed].status for seed in range(1, 7)] == [FINISHED, FAILED, RUNNING, FINISHED, RUNNING, FAILED]
    assert found[2].reason == "no luck"
    assert found[3].reason == found[5].reason == LEFT
    assert found[4].metrics == {"gold": 2.0}
    assert found[5].metrics == {}
    assert "no longer" in found[6].reason


def test_a_single_job_and_a_single_run_are_found_by_their_folders(tmp_path: Path) -> None:
    one = member(tmp_path / "dpo", seed=1, metrics={"gold": 1.0}, stage__beta="0.1")
    member(tmp_path / "dpo", seed=2, metrics={"gold": 1.0}, stage__beta="0.1")
    [found] = collect([str(one)])
    assert found.knobs == {"stage.beta": "0.1"}
    plain = tmp_path / "ppo"
    plain.mkdir()
    write_json(plain / "run.json", manifest("ppo", seed=7, metrics={"gold": 2}))
    assert [job.seed for job in collect([str(tmp_path / "dpo"), str(plain)])] == [1, 2, 7]
    with pytest.raises(LineageError, match=r"stage.runs=.*/none holds no sweep and is not a run"):
        collect([str(tmp_path / "none")])


def test_a_corrupted_record_is_skipped(tmp_path: Path) -> None:
    place = member(tmp_path, seed=1, metrics={"gold": 1.0})
    record_path(place).with_name("corrupted.json").write_text('{"stage": "dp')
    assert [job.seed for job in collect([str(tmp_path)])] == [1]


@pytest.mark.parametrize(
    ("value", "shown"),
    [("0.12520653814999466", "0.1252"), ("1.9e-05", "1.9e-05"), ("0.05", "0.05"), ("2", "2"), ("adam", "adam")],
)
def test_long_numbers_of_a_search_are_shortened(value: str, shown: str) -> None:
    assert short(value) == shown
    assert Job(Path("x"), "dpo", FINISHED, swept={"a": value, "seed": "1"}).knobs == {"a": shown}
