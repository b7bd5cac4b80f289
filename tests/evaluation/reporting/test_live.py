import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rlhf.config import Settings
from rlhf.evaluation.reporting import live
from rlhf.stages import execute
from tests.conftest import composed, manifest, tiny_overrides

HOSTILE = "</script><script>document.title = 0</script> <!-- \u2028 "


def write_run(directory: Path, stage: str, lines: list[dict[str, Any]], **more: Any) -> None:
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(json.dumps(manifest(stage, **more)))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def training(root: Path, idle: float = 0.0, **more: Any) -> Path:
    """A PPO run that is at update 30 of 50, after 20 updates in 40 seconds since it was resumed."""
    work = root / "almanac" / ".ppo.partial"
    lines = [{"step": step, "objective/scores": step / 10, "objective/kl": 1.0} for step in range(1, 31)]
    since = time.time() - idle - 40
    schedule = {"first": 10, "last": 50, "since": datetime.fromtimestamp(since, UTC).isoformat()}
    write_run(work, "ppo", lines, status="running", schedule=schedule, **more)
    for path in work.iterdir():
        os.utime(path, (since + 40, since + 40))
    return work


def test_a_running_stage_has_its_place_its_numbers_and_the_time_left(tmp_path: Path) -> None:
    training(tmp_path)
    [run] = live.snapshot(tmp_path)["runs"]
    assert (run["path"], run["status"], run["silent"], run["step"], run["steps"]) == (
        "almanac/ppo",
        "running",
        False,
        30,
        50,
    )
    assert run["left"] == pytest.approx(40, abs=2)  # 20 more updates at 2 seconds each
    assert run["numbers"] == ["reward 3", "KL 1"]
    assert run["panels"]["reward"]["objective/scores"] == [list(range(1, 31)), [step / 10 for step in range(1, 31)]]


def test_a_run_that_writes_nothing_any_more_is_silent(tmp_path: Path) -> None:
    training(tmp_path, idle=live.SILENT + 10)
    [run] = live.snapshot(tmp_path)["runs"]
    assert run["silent"]
    assert run["idle"] == pytest.approx(live.SILENT + 10, abs=2)
    assert run["left"] == 0


def test_a_slow_run_is_not_silent_between_two_steps(tmp_path: Path) -> None:
    work = training(tmp_path, idle=live.SILENT + 10)
    told = json.loads((work / "run.json").read_text())
    told["schedule"] |= {"first": 29, "since": datetime.fromtimestamp(time.time() - 3 * live.SILENT, UTC).isoformat()}
    (work / "run.json").write_text(json.dumps(told))
    os.utime(work / "run.json", (1, 1))
    [run] = live.snapshot(tmp_path)["runs"]
    assert not run["silent"]


def test_unfinished_runs_come_first_and_old_ones_without_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age, name in enumerate(("new", "old")):
        write_run(tmp_path / name, "sft", [{"step": 1, "train/loss": 2.0}], metrics={"eval/loss": 1.5})
        for path in (tmp_path / name).iterdir():
            os.utime(path, (1e9 - age, 1e9 - age))
    write_run(tmp_path / ".failed.partial", "sft", [], status="failed", reason="out of memory")
    write_run(tmp_path / "new" / "member-1", "reward", [])
    (tmp_path / "unreadable").mkdir()
    (tmp_path / "unreadable" / "run.json").write_text("{")
    monkeypatch.setattr(live, "DRAWN", 2)
    runs = live.snapshot(tmp_path)["runs"]
    assert [(run["path"], run["status"], bool(run["panels"])) for run in runs] == [
        ("failed", "failed", False), ("new", "finished", True), ("old", "finished", False),
    ]  # fmt: skip
    assert runs[0]["reason"] == "out of memory"
    assert runs[1]["numbers"] == ["held-out loss 1.5"]


def test_a_growing_file_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1}\n{"st\n[2]\n{"step": 3}\n{"step": 4')
    assert live.rows(file) == [{"step": 1}, {"step": 3}]
    assert live.rows(tmp_path / "none") == []


def test_a_changed_run_is_read_again(tmp_path: Path) -> None:
    work = training(tmp_path)
    live.snapshot(tmp_path)
    with (work / "metrics.jsonl").open("a") as file:
        file.write('{"step": 31, "objective/scores": 7.0}\n')
    assert live.snapshot(tmp_path)["runs"][0]["step"] == 31


def test_a_long_curve_keeps_its_last_point(tmp_path: Path) -> None:
    write_run(tmp_path / "long", "sft", [{"step": step, "train/loss": 1 / step} for step in range(1, 1002)])
    steps, values = live.snapshot(tmp_path)["runs"][0]["panels"]["loss"]["train/loss"]
    assert len(steps) <= live.POINTS + 1
    assert (steps[0], steps[-1], values[-1]) == (1, 1001, 0.000999)


def test_text_of_a_model_cannot_leave_the_data_of_the_file(tmp_path: Path) -> None:
    work = training(tmp_path, reason=HOSTILE)
    row = {"step": 30, "prompt": HOSTILE, "completion": HOSTILE + "x" * 10_000}
    (work / "samples.jsonl").write_text(json.dumps(row) + "\n")
    live.write(tmp_path, tmp_path / "watch.html", 5.0)
    text = (tmp_path / "watch.html").read_text(encoding="utf-8")
    before, _, rest = text.partition('<script type="application/json" id="data">')
    data, _, _ = rest.partition("</script>")
    assert text.count("</script>") == 2
    [run] = json.loads(data)["runs"]
    assert run["samples"][0]["prompt"] == run["reason"] == HOSTILE
    assert len(run["samples"][0]["completion"]) == live.LONGEST
    assert "{{" not in before + rest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["almanac", "watch.html"]
    assert sorted(path.name for path in work.iterdir()) == ["metrics.jsonl", "run.json", "samples.jsonl"]


def test_a_stage_writes_the_page_beside_its_run(tmp_path: Path, settings: Callable[..., Settings]) -> None:
    directory = tmp_path / "almanac" / "base"
    execute(composed(*tiny_overrides("base", tmp_path), "curves=[html]"), directory)
    text = (tmp_path / "almanac" / "watch.html").read_text(encoding="utf-8")
    assert '"path": "base", "stage": "base", "status": "finished"' in text
    assert not (directory / "watch.html").exists()
    schedule = json.loads((directory / "run.json").read_text())["schedule"]
    assert (schedule["first"], schedule["last"]) == (
        0,
        json.loads((directory / "run.json").read_text())["metrics"]["steps"],
    )


def test_a_page_that_cannot_be_written_does_not_stop_a_run(tmp_path: Path) -> None:
    (tmp_path / "watch.html").mkdir()
    written = live.Written(tmp_path / ".online_dpo.partial" / "round-1")
    assert written.folder == tmp_path
    written.log({}, 1)
    written.finish()
