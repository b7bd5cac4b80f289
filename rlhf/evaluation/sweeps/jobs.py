"""The jobs of a sweep, as they left themselves on disk: a record for each, and the run of those that finished.

    checkpoints/almanac/dpo/.jobs/stage.beta-0.1_seed-2.json    stage, what varies in it, how it ended and why
    checkpoints/almanac/dpo/stage.beta-0.1_seed-2/run.json      its run

A job writes its own record, wherever it runs; nothing else has to be alive to know how a sweep stands.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.config.objective import USUAL
from rlhf.errors import LineageError
from rlhf.runs.directory import JOBS
from rlhf.storage.digests import text_digest
from rlhf.storage.json_files import write_json
from rlhf.storage.manifest import read_manifest
from rlhf.storage.renamed import new_names
from rlhf.storage.secrets import redact

FINISHED, FAILED, RUNNING = "finished", "failed", "running"
LEFT = "it did not end: killed, or still running"


@dataclass(frozen=True)
class Job:
    """``swept``: the settings that vary in the sweep; ``content``: all that decides the result (rlhf.runs.identity)."""

    directory: Path
    stage: str
    status: str
    reason: str | None = None
    seed: int | None = None
    swept: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)

    @property
    def knobs(self) -> dict[str, str]:
        """What varies besides the seed."""
        return {key: short(value) for key, value in self.swept.items() if key != "seed"}


def short(value: str) -> str:
    """A number of many digits, as a search draws it, to four of them."""
    long = re.fullmatch(r"-?\d+\.\d{4,}(e-?\d+)?|-?\d(\.\d+)?e-?\d+", value)
    return f"{float(value):.4g}" if long else value


def digest(content: Mapping[str, Any]) -> str | None:
    return text_digest(json.dumps(content, sort_keys=True, default=str))


def record_path(directory: Path) -> Path:
    return directory.parent / JOBS / f"{directory.name}.json"


def write_record(directory: Path, record: Mapping[str, Any]) -> None:
    path = record_path(directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, redact(record))


def read_record(directory: Path, usual: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a job; ``usual`` where there is none."""
    try:
        return json.loads(record_path(directory).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return dict(usual)


def records(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every record below ``root`` with the directory of its job, in the order of their paths."""
    for path in sorted(root.rglob(f"{JOBS}/*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue  # of a job whose machine went down in the middle of it; its run, if any, says more
        yield path.parent.parent / path.stem, record


def job(directory: Path, record: Mapping[str, Any]) -> Job:
    """What became of the job with this record."""
    manifest = read_manifest(directory)
    known = {key: record[key] for key in ("stage", "swept", "seed", "status", "reason")}
    known["swept"] = new_names(known["swept"])
    ended = manifest is not None and manifest.get("status") == FINISHED
    if known["status"] == RUNNING:
        same = ended and digest(manifest["content"]) == record["content"]
        known |= {"status": FINISHED} if same else {"status": RUNNING, "reason": LEFT}
    elif known["status"] == FINISHED and not ended and known["stage"] in USUAL:
        known |= {"status": FAILED, "reason": f"its run is no longer in {directory}"}
    if known["status"] == FINISHED and ended:
        known |= {"metrics": manifest["metrics"], "content": manifest["content"]}
    return Job(directory, **known)


def collect(paths: Sequence[str]) -> list[Job]:
    """The jobs of the sweeps in these folders; a folder that is a run of no sweep is a job by itself.

    Raises:
        LineageError: there is no such folder, or neither a sweep nor a run in it.
    """
    found: dict[Path, Job] = {}
    for path in map(Path, paths):
        below = {directory: job(directory, record) for directory, record in records(path)}
        own = record_path(path)
        if not below and own.is_file():
            below = {path: job(path, json.loads(own.read_text(encoding="utf-8")))}
        manifest = None if below else read_manifest(path)
        if manifest is not None and manifest["stage"] in USUAL:
            told = {key: manifest[key] for key in ("stage", "status", "seed", "metrics", "content")}
            below = {path: Job(path, **told)}
        if not below:
            raise LineageError(
                f"stage.runs={path} holds no sweep and is no run of {', '.join(USUAL)}: "
                "run one with python -m rlhf -m stage=dpo stage.beta=0.1,0.3, or give the folder of another"
            )
        found |= below
    return list(found.values())
