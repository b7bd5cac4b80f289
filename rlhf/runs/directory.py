"""The directory of a run while it is written: locked for one process, emptied, moved to its final place."""

import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

from rlhf.errors import RunError
from rlhf.storage.checksums import DIGESTS
from rlhf.storage.manifest import MANIFEST, read_manifest

LOCK = ".lock"
SCRATCH = "resume"  # in a run that is not finished: checkpoints, trained members, finished parts, people's answers
ANSWERS = "answers.jsonl"
UPDATES = "updates"  # checkpoints of a PPO run that stage.keep_every keeps
OLD = ".old-"  # prefix of files of an old run that are to be deleted
REPLACED = ".replaced.json"  # the run.json of a run while it is replaced
WRITTEN = (  # by runs whose run.json has no list of files
    "metrics.jsonl", "samples.jsonl", "sentinel.jsonl", "model", "report.md", "report.html", "metrics.json", "figures",
    "responses.jsonl", "best.jsonl", "preferences.jsonl", ANSWERS, "data.json", "rewardbench.json",
    "rewardbench_scores.json", "leaderboard.md", "leaderboard.csv", "leaderboard.json", "tensorboard",
)  # fmt: skip
BUNDLES = "bundles"  # uploaded folders in a run of stage=publish: each has a run.json, but is not a run
JOBS = ".jobs"  # records of the jobs in the folder of a sweep (rlhf.evaluation.sweeps.jobs)
PAGE = "watch.html"  # beside runs: rlhf.evaluation.reporting.live
MEMBER = "member-"  # prefix of the runs inside an ensemble's run


def partial(directory: Path) -> Path:
    """Return the directory that a run is written to until it is finished."""
    return directory.parent / f".{directory.name}.partial"


def saved(work: Path) -> str | None:
    """Return the name of the newest file or folder in ``work`` that ``resume=true`` continues from, or None.

    An incomplete checkpoint has no digests and does not count. A run that was killed before it was moved is complete.
    A run inside ``work`` (rlhf.stages.inner) counts before ``work`` has noted its end, too.

    Raises:
        RunError: its run.json cannot be read.
    """
    if (read_manifest(work) or {}).get("status") == "finished":
        return "all of its results"
    scratch = work / SCRATCH
    found = [path.parent for path in scratch.rglob(DIGESTS) if not path.parent.name.startswith(".")]
    found += [path for path in (*scratch.glob("*.json"), scratch / ANSWERS) if path.is_file()]
    names = [path.relative_to(scratch).as_posix().removesuffix(".json") for path in found] or _inside(work)
    return max(names, key=lambda name: [int(digits) for digits in re.findall(r"\d+", name)], default=None)


def _inside(work: Path) -> list[str]:
    """Return the names of the runs inside ``work`` that are finished or can be continued."""
    names = []
    for place in (path.parent for path in work.rglob(MANIFEST)):
        name = place.relative_to(work)
        unfinished = name.name.startswith(".") and name.name.endswith(".partial")
        other = name.parts[:1] in ((), (SCRATCH,), (BUNDLES,)) or name.name.startswith(MEMBER)
        if not other and (not unfinished or saved(place) is not None):
            title = name.name[1:].removesuffix(".partial") if unfinished else name.name
            names.append(name.with_name(title).as_posix())
    return names


def claim(work: Path, directory: Path) -> IO:
    """Create ``work`` and lock it for this process, for a run that will be moved to ``directory``; return the lock.

    Raises:
        RunError: another process has locked it, or it cannot be written.
    """
    if directory.exists() and not directory.is_dir():  # else the move would fail after training
        raise RunError(f"{directory} is a file, not a directory: move it away, or set name=<another>")
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = (work / LOCK).open("w")
    except OSError as error:
        with suppress(OSError):
            work.rmdir()
        raise unwritable(directory, error) from error
    try:
        held = lock_descriptor(lock.fileno(), blocking=False)
    except OSError as error:  # the file system has no locks
        lock.close()
        raise unwritable(directory, error) from error
    if not held:
        lock.close()
        raise RunError(f"{directory} is being written by another process: wait for it, or set name=<another>")
    return lock


def unwritable(directory: Path, error: OSError) -> RunError:
    """Return the error for a file system that refuses: a file in the path, no permission, no space."""
    reason = error.strerror or error
    return RunError(f"{directory} cannot be written ({reason}): fix this, or set checkpoints=<another directory>")


def empty(work: Path) -> None:
    """Delete everything in ``work`` except its lock."""
    for path in work.iterdir():
        if path.name == LOCK:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def foreign(directory: Path) -> str | None:
    """Return the name of a file that neither a run nor a sweep wrote in a directory without a run, or None."""
    work = partial(directory)
    names = [path.name for path in work.iterdir()] if work.is_dir() else []
    if names and not any(name in (LOCK, MANIFEST) or name.startswith(OLD) for name in names):
        return f"../{work.name}"
    if not directory.is_dir() or any((directory / name).exists() for name in (MANIFEST, REPLACED)):
        return None
    for path in sorted(directory.iterdir()):
        holds_runs = path.is_dir() and (not any(path.iterdir()) or any(path.rglob(MANIFEST)))
        if path.name not in (JOBS, PAGE) and not holds_runs and not path.name.endswith(".partial"):
            return path.name
    return None


def listed(work: Path) -> list[str]:
    """Return the names of files that a run wrote in ``work``, which a later run may delete.

    Bundles are not included: each belongs to a published run, and the next one may publish another.
    """
    kept = (LOCK, SCRATCH, MANIFEST, BUNDLES)
    return sorted(path.name for path in work.iterdir() if path.name not in kept)


def move(work: Path, directory: Path) -> None:
    """Move a finished run to its directory, and delete the files of the run that it replaces. Other files stay.

    It can be repeated after a kill at any point.

    Raises:
        RunError: a file of the new run has the name of a file that no run wrote.
    """
    (work / LOCK).unlink(missing_ok=True)
    if not directory.exists() or not any(directory.iterdir()):  # Hydra creates an empty one for a job of a sweep
        os.rename(work, directory)
        return
    _set_old_aside(work, directory)
    for path in sorted(_moved(work), key=lambda p: p.name == MANIFEST):
        target = directory / path.relative_to(work)
        if target.parent.name == BUNDLES and (target / MANIFEST).exists():  # of the same run, published again
            os.replace(target, work / f"{OLD}{path.name}")
        if target.exists():
            raise RunError(
                f"{target} was not written by a run and blocks one: "
                "move it away, then resume=true moves the finished run to its directory"
            )
        target.parent.mkdir(exist_ok=True)
        os.replace(path, target)
    (directory / REPLACED).unlink(missing_ok=True)
    shutil.rmtree(work)


def _set_old_aside(work: Path, directory: Path) -> None:
    """Move the files of the run in ``directory`` to ``work``; its run.json, which lists them, comes last."""
    if (directory / MANIFEST).exists():  # the directory is not a run until the new run.json is moved
        os.replace(directory / MANIFEST, directory / REPLACED)
    if not (directory / REPLACED).exists():
        return
    new = json.loads((work / MANIFEST).read_text(encoding="utf-8")).get("files", [])
    old = json.loads((directory / REPLACED).read_text(encoding="utf-8")).get("files")
    for path in list(directory.iterdir()):
        is_old = path.name in WRITTEN or path.name.startswith(MEMBER) if old is None else path.name in old
        moved_before_a_kill = path.name in new and not (work / path.name).exists()
        if is_old and not moved_before_a_kill:
            os.replace(path, work / f"{OLD}{path.name}")


def _moved(work: Path) -> list[Path]:
    """Return the paths to move to the run's directory: its files, and each of its bundles."""
    paths = [path for path in work.iterdir() if path.name != BUNDLES and not path.name.startswith(OLD)]
    return paths + list((work / BUNDLES).glob("*"))
