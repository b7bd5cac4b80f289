"""A run: the directory of one execution of a stage, with parents, settings and results in run.json.

    checkpoints/almanac/sft/
        run.json        the stage contract: parents, settings, data, tokenizer, versions, hardware, timings, metrics
        metrics.jsonl   one line per logged step
        curves.svg      the main metrics over the steps; metrics.csv: all of them, with curves=[svg,csv]
        samples.jsonl   completions sampled during training
        ledger.jsonl    tokens of a few responses of each update, with stage.ledger of stage=ppo
        sentinel.jsonl  diagnoses of the sentinel of stage=ppo, one per line
        model/          weights (safetensors), tokenizer, chat template, generation config

A run is written to ``.sft.partial`` and moved to its directory when it is finished, so that a directory with a run.json
is complete. ``resume=true`` continues from ``.sft.partial``.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import IO, Any

from rlhf.config import Settings, Strategy
from rlhf.errors import LineageError, RlhfError
from rlhf.hardware import ranks
from rlhf.runs import logs
from rlhf.runs.commands import command
from rlhf.runs.directory import BUNDLES, SCRATCH, claim, empty, listed, partial, saved, unwritable
from rlhf.runs.identity import Origin
from rlhf.runs.interrupted import check_start, put_in_place
from rlhf.runs.parents import Parent
from rlhf.storage import digests
from rlhf.storage.digests import tokenizer_record
from rlhf.storage.json_files import write_json
from rlhf.storage.manifest import MANIFEST, read_manifest
from rlhf.storage.secrets import redact


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _by_the_writer(method: Callable[..., None]) -> Callable[..., None]:
    """Call the method only in the process that writes the run."""

    @wraps(method)
    def guarded(run: "Run", *arguments: Any, **named: Any) -> None:
        if run._lock is not None:
            method(run, *arguments, **named)

    return guarded


@dataclass
class Run:
    """A stage's run while it is being written (``Run.start``) or when it is finished (``Run.open``)."""

    directory: Path
    work: Path
    manifest: dict[str, Any]
    parents: dict[str, Parent]
    _lock: IO | None = None
    _metrics: IO | None = None
    _trackers: tuple = ()
    _started: float = 0.0

    @classmethod
    def open(cls, directory: Path) -> "Run":
        """Open a finished run.

        Raises:
            LineageError: the directory has no finished run.
        """
        manifest = read_manifest(directory)
        if manifest is None or manifest.get("status") != "finished":
            raise LineageError(f"{directory} has no finished run")
        return cls(directory, directory, manifest, {})

    @classmethod
    def start(
        cls, directory: Path, settings: Settings, overrides: Sequence[str] = (), origin: Origin | None = None
    ) -> "Run":
        """Claim the directory and begin, or continue an interrupted run.

        With several processes only the first one writes the run; the others have no lock, and their run has no full
        manifest.

        Raises:
            LineageError: a parent is missing, unfinished or of the wrong stage.
            RunError: as ``check_start``; or another process is writing the run, or it cannot be written.
        """
        parents, new = origin or Origin.of(settings, overrides)
        work = partial(directory)
        if not ranks.is_main():
            return cls(directory, work, {"stage": settings.stage.name}, parents)
        resumed = check_start(directory, settings, new, overrides)
        run = cls(directory, work, {}, parents, claim(work, directory))
        try:
            if not resumed:
                empty(work)
            run._begin(settings, new, overrides, resumed)
        except OSError as error:
            run._close()
            if not resumed:
                shutil.rmtree(work, ignore_errors=True)
            raise unwritable(directory, error) from error
        return run

    def _begin(self, settings: Settings, new: dict[str, Any], overrides: Sequence[str], resumed: bool) -> None:
        self._started = time.monotonic()
        stage = settings.stage.name
        self.manifest = {
            "stage": stage,
            "name": settings.name,
            "status": "running",
            "command": command(stage, overrides),
            "parents": {role: parent.record() for role, parent in self.parents.items()},
            "seed": settings.seed,
            "settings": asdict(settings),
            "content": new,
            "data": {},
            "dtype": settings.model.dtype,
            "versions": digests.versions(),
            "git": digests.git_revision(),
            "hardware": digests.hardware() | ranks.record(settings.hardware),
            "started": _now(),
            "resumed": resumed,
        }
        self._metrics = (self.work / "metrics.jsonl").open("a", encoding="utf-8")
        self.write()

    @property
    def stage(self) -> str:
        """The stage that writes the run."""
        return self.manifest["stage"]

    @property
    def resumed(self) -> bool:
        """Whether the run continues an interrupted one."""
        return self.manifest["resumed"]

    @property
    def strategy(self) -> Strategy:
        """The strategy that divides the training over processes."""
        return Strategy(self.manifest["hardware"]["strategy"])

    @property
    def model(self) -> Path:
        """Folder of the weights and the tokenizer."""
        return self.work / "model"

    @property
    def scratch(self) -> Path:
        """Folder of checkpoints to resume from, which is deleted at the end of the run."""
        return self.work / SCRATCH

    @_by_the_writer
    def write(self) -> None:
        """Write run.json, without secrets."""
        write_json(self.work / MANIFEST, redact(self.manifest))

    @_by_the_writer
    def record_data(self, kind: str, split: str, dataset: Any, folder: str | None = None) -> None:
        """Record the rows and the fingerprint of a data set that the stage reads, which is cached in ``folder``."""
        from rlhf.data import fingerprint  # datasets is slow to import and `status` never needs it

        entry = {"rows": len(dataset), "fingerprint": fingerprint(dataset, folder)}
        self.manifest["data"].setdefault(kind, {})[split] = entry
        self.write()

    @_by_the_writer
    def record_omission(self, kind: str, split: str, rows: int, reason: str, sentence: str | None = None) -> None:
        """Record and print rows that training omits, truncates or reads in part; ``sentence``: the printed reason."""
        self.manifest["data"][kind][split][reason] = rows
        self.write()
        if rows:
            total = self.manifest["data"][kind][split]["rows"]
            print(f"{self.stage}: {rows} of {total} rows of {kind}/{split}: {sentence or reason}")

    @_by_the_writer
    def record_output(self, path: Path) -> None:
        """Record the digest of the output of a stage that writes no weights, for stages that start from it."""
        self.manifest["output"] = digests.file_digest(path)
        self.write()

    @_by_the_writer
    def record_tokenizer(self, tokenizer: Any) -> None:
        """Record the tokenizer, its chat template and special tokens, which later stages must find unchanged."""
        self.manifest["tokenizer"] = tokenizer_record(tokenizer)
        self.write()

    @_by_the_writer
    def record_diagnoses(self, records: Sequence[dict[str, Any]]) -> None:
        """Write all diagnoses of a sentinel so far to run.json and, one per line, to sentinel.jsonl."""
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (self.work / "sentinel.jsonl").write_text(lines, encoding="utf-8")
        self.manifest["diagnoses"] = list(records)
        self.write()

    @_by_the_writer
    def record_falls(self, records: Sequence[dict[str, Any]]) -> None:
        """Record in run.json which of gold and shadow rewards fell while the score rose, and when."""
        self.manifest["falls"] = list(records)
        self.write()

    @_by_the_writer
    def schedule(self, first: int, last: int) -> None:
        """Record the steps that are done and the last one, when training begins or continues: for the time left."""
        self.manifest["schedule"] = {"first": first, "last": last, "since": _now()}
        self.write()

    @_by_the_writer
    def log(self, metrics: dict[str, float], step: int) -> None:
        """Append to metrics.jsonl and send to the trackers. Times are only in run.json: equal runs log equal bytes."""
        assert self._metrics is not None
        self._metrics.write(json.dumps({"step": step, **metrics}) + "\n")
        self._metrics.flush()
        for tracker in self._trackers:
            tracker.log(metrics, step=step)

    @_by_the_writer
    def append(self, name: str, line: Mapping[str, Any]) -> None:
        """Append a line, which has a ``step``, to one of `logs.LOGS`."""
        with (self.work / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def track(self, *trackers: Any) -> None:
        """Also send metrics to ``trackers`` (accelerate's GeneralTracker)."""
        self._trackers += trackers

    def written(self) -> dict[str, int]:
        """Return the number of lines of each log, for a checkpoint to store."""
        return logs.lines(self.work)

    @_by_the_writer
    def rewind(self, step: int, written: Mapping[str, int] | None = None) -> None:
        """Delete lines that an interrupted run logged after its last checkpoint; see `logs.cut`."""
        logs.cut(self.work, step, written)
        if self._metrics is not None:
            self._metrics.close()
        self._metrics = (self.work / "metrics.jsonl").open("a", encoding="utf-8")

    @_by_the_writer
    def stop(self, status: str, reason: str) -> None:
        """End an unfinished run as ``interrupted`` or ``failed``; delete it if it has no checkpoint."""
        kept = saved(self.work) is not None
        if kept:
            self.manifest |= {"status": status, "reason": reason}
            with suppress(OSError):  # some runs stop because the disk is full
                self.write()
        self._close()
        if not kept:
            shutil.rmtree(self.work, ignore_errors=True)

    @_by_the_writer
    def record_member(self, folder: Path, metrics: dict[str, float]) -> None:
        """Make ``folder`` inside this run, which has a model, a separate run: a member of an ensemble."""
        finished = {"status": "finished", "finished": _now(), "seconds": round(time.monotonic() - self._started, 1)}
        weights = digests.weights_digest(folder / "model")
        write_json(folder / MANIFEST, redact(self.manifest | finished | {"weights": weights, "metrics": metrics}))

    @_by_the_writer
    def adopt(self) -> None:
        """Record in the runs inside this one its command, and the paths that hold when it is in its directory."""
        for path in self.work.rglob(MANIFEST):
            if path.parent == self.work:
                continue
            for file in (path, path.parent / "model" / "adapter_config.json"):
                if file.is_file():
                    text = file.read_text(encoding="utf-8").replace(self.work.name, self.directory.name)
                    changed = json.loads(text)
                    write_json(file, changed | {"command": self.manifest["command"]} if file == path else changed)

    def finish(self, metrics: dict[str, float]) -> None:
        """Write the final metrics and move the run to its directory, when no other process reads it any more."""
        ranks.wait()
        self._finish(metrics)
        ranks.wait()
        self.work = self.directory

    @_by_the_writer
    def _finish(self, metrics: dict[str, float]) -> None:
        self.manifest |= {
            "status": "finished",
            "weights": digests.weights_digest(self.model),
            "hardware": self.manifest["hardware"] | digests.hardware(),
            "finished": _now(),
            "seconds": round(time.monotonic() - self._started, 1),
            "peak_memory_gib": digests.peak_memory_gib(),
            "metrics": metrics,
            "files": listed(self.work),
        }
        self.write()
        if self._metrics is not None:
            self._metrics.close()
        put_in_place(self.work, self.directory)
        self._close()

    def _close(self) -> None:
        for tracker in self._trackers:
            tracker.finish()
        if self._metrics is not None:
            self._metrics.close()
        if self._lock is not None:
            self._lock.close()

    def __getitem__(self, role: str) -> Parent:
        return self.parents[role]


def runs(root: Path, passed_over: list[RlhfError] | None = None) -> Iterator[Run]:
    """Yield every finished run below ``root``, oldest first.

    Errors are appended to ``passed_over`` if it is a list.

    Raises:
        RunError: a run.json cannot be read, and ``passed_over`` is None.
        LineageError: a run is not finished, and ``passed_over`` is None.
    """
    places = [path.parent for path in sorted(root.rglob(MANIFEST)) if BUNDLES not in path.parts]
    found = []
    for place in places:
        try:
            if ".partial" not in str(place):
                found.append(Run.open(place))
        except RlhfError as error:
            if passed_over is None:
                raise
            passed_over.append(error)
    yield from sorted(found, key=lambda run: run.manifest["finished"])
