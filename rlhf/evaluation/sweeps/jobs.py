"""The jobs of a sweep on disk: a record of each, and the run of those that finished.

    checkpoints/almanac/dpo/.jobs/stage.beta-0.1_seed-2.json    stage, what varies in it, how it ended and why
    checkpoints/almanac/dpo/stage.beta-0.1_seed-2/run.json      its run

Each job writes its own record, so the state of a sweep can be read at any time, from any machine.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.config.objective import USUAL
from rlhf.errors import LineageError
from rlhf.runs.directory import JOBS
from rlhf.storage.json_files import write_json
from rlhf.storage.manifest import read_manifest
from rlhf.storage.renamed import new_names
from rlhf.storage.secrets import redact

FINISHED, FAILED, RUNNING = "finished", "failed", "running"
LEFT = "it did not finish: killed, or still running"


@dataclass(frozen=True)
class Job:
    """A job: ``swept`` holds the settings that the sweep varies, ``content`` all that decide the result.

    See rlhf.runs.identity for ``content``.
    """

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
        """The settings that the sweep varies, without the seed."""
        return {key: short(value) for key, value in self.swept.items() if key != "seed"}


def short(value: str) -> str:
    """Return a number with many digits, as a search samples it, with four significant ones; other values unchanged."""
    long = re.fullmatch(r"-?\d+\.\d{4,}(e-?\d+)?|-?\d(\.\d+)?e-?\d+", value)
    return f"{float(value):.4g}" if long else value


def digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of settings, independent of their order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def record_path(directory: Path) -> Path:
    """Return the path of the record of the job in ``directory``."""
    return directory.parent / JOBS / f"{directory.name}.json"


def write_record(directory: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a job, with secrets redacted."""
    path = record_path(directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, redact(record))


def read_record(directory: Path, usual: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a job; ``usual`` if it is missing or corrupted."""
    try:
        return json.loads(record_path(directory).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return dict(usual)


def records(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the directory of each job below ``root`` with its record, ordered by path; skips corrupted records."""
    for path in sorted(root.rglob(f"{JOBS}/*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue  # the machine went down during the write
        yield path.parent.parent / path.stem, record


def job(directory: Path, record: Mapping[str, Any]) -> Job:
    """Return the job with this record, with the metrics of its run if it finished."""
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
    """Return the jobs of the sweeps in these folders; a single run counts as a job.

    Raises:
        LineageError: a folder does not exist or contains neither a sweep nor a run.
    """
    found: dict[Path, Job] = {}
    for path in map(Path, paths):
        below = {directory: job(directory, record) for directory, record in records(path)}
        own = record_path(path)
        if not below and own.is_file():
            below = {path: job(path, json.loads(own.read_text(encoding="utf-8")))}
        manifest = None if below else read_manifest(path)
        if manifest is not None and manifest["stage"] in USUAL:
            known = {key: manifest[key] for key in ("stage", "status", "seed", "metrics", "content")}
            below = {path: Job(path, **known)}
        if not below:
            raise LineageError(
                f"stage.runs={path} holds no sweep and is not a run of {', '.join(USUAL)}: "
                "run one with python -m rlhf -m stage=dpo stage.beta=0.1,0.3, or set another folder"
            )
        found |= below
    return list(found.values())
