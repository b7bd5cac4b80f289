"""Plans against measured peaks: what is stored agrees, and the script measures what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import plan_memory
from tests.conftest import composed


def row(shape: str, stage: str, way: str, peak: int, planned: int) -> dict:
    return {"shape": shape, "stage": stage, "way": way, "peak": peak, "planned": planned, "phase": "loss"}


def test_the_table_by_hand() -> None:
    lines = plan_memory.table([row("256x4x2k", "sft", "full", 100 * 2**20, 110 * 2**20)])
    assert lines[-1] == "| 256x4x2k | sft | full | 100 | 110 | +10% | loss |"
    times = plan_memory.times([{"stage": "base", "steps": 60, "predicted": 9.0, "real": 10.0}])
    assert times[-1] == "| base | 60 | 9.0 | 10.0 | -10% |"


def test_stored_results_of_other_cases_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_memory, "RESULT", tmp_path / "plan_memory.json")
    old = [row("stories15M", "sft", "full", 1, 1), row("256x4x2k", "sft", "LoRA", 2, 2)]
    plan_memory.RESULT.write_text(json.dumps({"rows": old}))
    new = row("stories15M", "sft", "full", 3, 3)
    assert plan_memory.beside([new]) == [old[1], new]
    assert plan_memory.stored("times") == []


def test_the_tables_go_to_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_memory, "PAGE", tmp_path / "planning.md")
    plan_memory.PAGE.write_text("before\n<!-- plans against measurements -->\nold\n<!-- end -->\nafter\n<!-- end -->\n")
    rows = [row("256x4x2k", "sft", "full", 100, 110)]
    plan_memory.publish(rows, [])
    place = "<!-- plans against measurements -->"
    lines = ["before", place, *plan_memory.table(rows), "<!-- end -->", "after", "<!-- end -->", ""]
    assert plan_memory.PAGE.read_text() == "\n".join(lines)


@pytest.mark.parametrize("way", plan_memory.WAYS)
@pytest.mark.parametrize("stage", plan_memory.STAGES)
def test_every_case_composes(stage: str, way: str, tmp_path: Path) -> None:
    given = plan_memory.overrides(stage, way, tmp_path, "policy", plan_memory.SIZES["stories15M"])
    settings = composed(*given)
    assert settings.adapter.kind.value == plan_memory.WAYS[way]
    assert settings.stage.name == stage


def test_what_is_stored_is_within_the_tolerance() -> None:
    rows = plan_memory.stored("rows")
    assert rows
    for one in rows:
        assert abs(one["planned"] / one["peak"] - 1) <= plan_memory.TOLERANCE, one["shape"]
    assert plan_memory.table(rows)[-1] in plan_memory.PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_peak_is_measured_and_near_its_plan(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    plan_memory.prepare("256x4x2k", folder)
    found = plan_memory.apart(
        folder, plan_memory.ALLOCATOR, "--shapes", "256x4x2k", "--stages", "sft", "--ways", "full"
    )
    assert abs(found["planned"] / found["peak"] - 1) <= plan_memory.TOLERANCE


def test_it_says_what_it_needs(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "RLHF_TEST_MODELS"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.plan_memory"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "RLHF_TEST_MODELS must name a folder" in done.stderr
