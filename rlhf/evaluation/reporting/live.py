"""A page of all runs below a folder, with logged metrics, samples, diagnoses and the time left.

The same page is served (rlhf/labeling/watch_page.py) and written as a file with the data in it.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlhf.errors import RlhfError
from rlhf.evaluation.reporting.curves import falls, panels
from rlhf.runs.directory import BUNDLES, MEMBER
from rlhf.runs.directory import PAGE as FILE
from rlhf.runs.headlines import PROGRESS, fallen, labeled, results
from rlhf.runs.logs import LEDGER, LOGS
from rlhf.storage.manifest import MANIFEST, read_manifest

TEMPLATE = Path(__file__).with_name("live.html")
DRAWN = 60  # runs with curves and samples; older ones are only listed
POINTS = 240  # of a curve
SAMPLES = 6  # newest completions of a run
LONGEST = 1500  # characters of a text
UPDATES = 60  # of a token ledger in a file
SILENT = 120.0  # seconds without a line, and lines missed at the usual pace, after which a run may have been killed
MISSED = 5
EVERY = 5.0  # seconds between two versions of a file that a run writes


def snapshot(root: Path) -> dict[str, Any]:
    """Return the runs below ``root`` as JSON values, unfinished ones first, then the newest."""
    now = time.time()
    found: list[tuple[float, dict[str, Any]]] = []
    for work in _places(root):
        with suppress(OSError, RlhfError):  # it is being moved, or cannot be read, which stage=status reports
            found.append(_timed(work, root, now))
    found.sort(key=lambda one: (one[1]["status"] == "finished", -one[0]))
    runs = [run for _, run in found]
    for run in runs[DRAWN:]:
        run.update(panels={}, samples=[])
    return {"root": str(root), "time": now, "runs": runs}


def ledger(root: Path, path: str, most: int | None = None) -> list[dict[str, Any]]:
    """Return the token ledger of the run that `snapshot` calls ``path``: about ``most`` updates, evenly spaced."""
    found = next((rows(work / LEDGER) for work in _places(root) if _place(work, root) == path), [])
    return [found[i] for i in _spaced(len(found), most or len(found))]


def _places(root: Path) -> list[Path]:
    """Return the directories of runs, finished or not, without published copies and members of ensembles."""
    found = [path.parent for path in root.rglob(MANIFEST) if BUNDLES not in path.parts]
    return [work for work in found if not work.name.startswith(MEMBER)]


def _timed(work: Path, root: Path, now: float) -> tuple[float, dict[str, Any]]:
    """Return the time of the last line of a run, and its description."""
    stamp = tuple((path.stat().st_mtime_ns, path.stat().st_size) for path in _files(work))
    written = max(nanoseconds for nanoseconds, _ in stamp) / 1e9
    run = {"path": _place(work, root), **_read(work, stamp)}
    pace, schedule, idle = None, run.pop("schedule"), now - written
    if run["status"] == "running" and schedule is not None and run["step"] > schedule["first"]:
        spent = written - datetime.fromisoformat(schedule["since"]).timestamp()
        pace = max(0.0, spent) / (run["step"] - schedule["first"])  # seconds per step since training began or resumed
    run["left"] = None if pace is None else max(0.0, pace * (schedule["last"] - run["step"]) - idle)
    run["idle"], run["silent"] = idle, idle > max(SILENT, MISSED * (pace or 0))
    return written, run


def _files(work: Path) -> list[Path]:
    return [work / MANIFEST, *(work / name for name in LOGS if (work / name).is_file())]


def _place(work: Path, root: Path) -> str:
    """Return the path of a run below ``root`` when it is finished."""
    parts = work.relative_to(root).parts
    return "/".join(part[1:].removesuffix(".partial") if part.endswith(".partial") else part for part in parts) or "."


@lru_cache(maxsize=1024)
def _read(work: Path, stamp: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return the parts of a run's description that depend only on its files, which have not changed since ``stamp``."""
    manifest = read_manifest(work)
    if manifest is None:
        raise FileNotFoundError(work)
    lines = rows(work / "metrics.jsonl")
    last: dict[str, Any] = {}
    for line in lines:
        last |= line
    finished, stage = manifest["status"] == "finished", manifest["stage"]
    curves = {title: {name: _thin(*points) for name, points in own.items()} for title, own in panels(lines).items()}
    return {
        "stage": stage,
        "status": manifest["status"],
        "reason": manifest.get("reason"),
        "command": manifest["command"],
        "seconds": manifest.get("seconds"),
        "step": last.get("step", 0),
        "steps": manifest.get("schedule", {}).get("last"),
        "schedule": manifest.get("schedule"),
        "numbers": results(manifest) if finished else labeled(last, PROGRESS.get(stage, ())),
        "panels": curves,
        "samples": [_cut(row) for row in rows(work / "samples.jsonl")[-SAMPLES:]],
        "ledger": (work / LEDGER).is_file(),
        "falls": [fallen(fall) for fall in manifest.get("falls", ())],
        "fell": falls(manifest),
        "diagnoses": [_cut(row) for row in manifest.get("diagnoses", [])],
    }


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a file that may be growing; empty if it does not exist."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        with suppress(ValueError):  # a kill can cut a line short
            found.append(json.loads(line))
    return [row for row in found if isinstance(row, dict) and "step" in row]


def _thin(steps: Sequence[float], values: Sequence[float]) -> list[list[float]]:
    """Return at most about `POINTS` of the points, with the last one, to five digits."""
    kept = _spaced(len(steps), POINTS)
    return [[steps[i] for i in kept], [float(f"{values[i]:.5g}") for i in kept]]


def _spaced(count: int, most: int) -> list[int]:
    return sorted({*range(0, count, -(-count // most)), count - 1}) if count else []


def _cut(row: Mapping[str, Any]) -> dict[str, Any]:
    texts = {key: value for key, value in row.items() if isinstance(value, str | int)}
    return {key: value[:LONGEST] if isinstance(value, str) else value for key, value in texts.items()}


def write(root: Path, file: Path, every: float | None = None) -> None:
    """Write the page of all runs below ``root`` to ``file``, atomically; it loads itself again after ``every`` seconds.

    Raises:
        OSError: the file cannot be written.
    """
    state: dict[str, Any] = snapshot(root) | {"every": every}
    drawn = [run["path"] for run in state["runs"][:DRAWN] if run["ledger"]]
    state["ledgers"] = {path: ledger(root, path, UPDATES) for path in drawn}
    data = json.dumps(state).replace("<", "\\u003c")
    text = TEMPLATE.read_text(encoding="utf-8").replace('nonce="{{nonce}}"', "").replace("{{data}}", data)
    aside = file.with_name(f".{file.name}.{os.getpid()}.tmp")  # several jobs of a sweep may write the same page
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, file)


class Written:
    """A tracker that writes the page beside its run, at most every `EVERY` seconds, and at the end."""

    def __init__(self, directory: Path):
        # A run inside another one is shown on the page beside that one.
        self.folder = next(folder for folder in directory.parents if ".partial" not in folder.as_posix())
        self._due = 0.0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write the page if it is due; a page that cannot be written does not stop training."""
        if time.monotonic() >= self._due:
            with suppress(OSError):
                write(self.folder, self.folder / FILE, EVERY)
            self._due = time.monotonic() + EVERY

    def finish(self) -> None:
        """Write the page of the finished run."""
        self._due = 0.0
        self.log({}, 0)
