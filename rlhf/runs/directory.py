"""The directory that a run is written in: claimed for one process, emptied, moved into its place."""

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
SCRATCH = "resume"  # in a run that is not finished: checkpoints, trained members, people's answers
ANSWERS = "answers.jsonl"
OLD = ".old-"  # begins the name of what an old run wrote, moved aside to be deleted
REPLACED = ".replaced.json"  # the run.json of a run that is being replaced, until the new one is in its place
WRITTEN = (  # by runs whose run.json does not list it under "files"
    "metrics.jsonl", "samples.jsonl", "sentinel.jsonl", "model", "report.md", "report.html", "metrics.json", "figures",
    "responses.jsonl", "best.jsonl", "preferences.jsonl", ANSWERS, "data.json", "rewardbench.json",
    "rewardbench_scores.json", "leaderboard.md", "leaderboard.csv", "leaderboard.json", "tensorboard",
)  # fmt: skip
BUNDLES = "bundles"  # in a run of stage=publish, what goes up: each folder has a run.json, and none is a run
JOBS = ".jobs"  # in a folder of a sweep's members: the records of its jobs (rlhf.evaluation.sweeps.jobs)
MEMBER = "member-"  # begins the name of what belongs to an ensemble's run: a second run inside it, replaced with it


def partial(directory: Path) -> Path:
    """Where a run is written until it is finished."""
    return directory.parent / f".{directory.name}.partial"


def saved(work: Path) -> str | None:
    """Return the name of the newest thing in ``work`` that ``resume=true`` continues from; None if there is nothing.

    A checkpoint that a kill left unfinished has no digests and does not count. A run that was killed between its end
    and its move has everything.

    Raises:
        RunError: its run.json cannot be read.
    """
    if (read_manifest(work) or {}).get("status") == "finished":
        return "all of its work done"
    scratch = work / SCRATCH
    found = [path.parent for path in scratch.rglob(DIGESTS) if not path.parent.name.startswith(".")]
    found += [path for path in (*scratch.glob(f"{MEMBER}*.json"), scratch / ANSWERS) if path.is_file()]
    names = [path.relative_to(scratch).as_posix().removesuffix(".json") for path in found]
    return max(names, key=lambda name: [int(digits) for digits in re.findall(r"\d+", name)], default=None)


def claim(work: Path, directory: Path) -> IO:
    """Make ``work`` and lock it for this process, for a run that will be moved to ``directory``.

    Raises:
        RunError: another process holds it, or it cannot be written.
    """
    if directory.exists() and not directory.is_dir():  # else the move fails, when everything has been trained
        raise RunError(f"{directory} is a file where a directory is to be: move it away, or give name=<another>")
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
        raise RunError(f"{directory} is being written by another process: wait for it, or give name=<another>")
    return lock


def unwritable(directory: Path, error: OSError) -> RunError:
    """What to raise where the file system refuses: a file in the path, no permission, no space."""
    reason = error.strerror or error
    return RunError(f"{directory} cannot be written ({reason}): mend that, or give checkpoints=<another directory>")


def empty(work: Path) -> None:
    for path in work.iterdir():
        if path.name == LOCK:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def foreign(directory: Path) -> str | None:
    """Return the name of something that no run and no sweep wrote in a directory without a run; None if all is."""
    work = partial(directory)
    names = [path.name for path in work.iterdir()] if work.is_dir() else []
    if names and not any(name in (LOCK, MANIFEST) or name.startswith(OLD) for name in names):
        return f"../{work.name}"
    if not directory.is_dir() or any((directory / name).exists() for name in (MANIFEST, REPLACED)):
        return None
    for path in sorted(directory.iterdir()):
        holds_runs = path.is_dir() and (not any(path.iterdir()) or any(path.rglob(MANIFEST)))
        if path.name != JOBS and not holds_runs and not path.name.endswith(".partial"):
            return path.name
    return None


def listed(work: Path) -> list[str]:
    """Return what a run wrote in ``work``, for its run.json: the names that a later run may delete.

    Bundles are not among them: each is of a run that was published, and the next one publishes another.
    """
    kept = (LOCK, SCRATCH, MANIFEST, BUNDLES)
    return sorted(path.name for path in work.iterdir() if path.name not in kept)


def move(work: Path, directory: Path) -> None:
    """Put a finished run in its place, and delete what the run that was there before wrote. All else stays.

    Killed at any point, it can be called again.

    Raises:
        RunError: a file of the new run has the name of something there that no run wrote.
    """
    (work / LOCK).unlink(missing_ok=True)
    if not directory.exists() or not any(directory.iterdir()):  # Hydra makes an empty one for a member of a sweep
        os.rename(work, directory)
        return
    _set_old_aside(work, directory)
    for path in sorted(_moved(work), key=lambda p: p.name == MANIFEST):
        target = directory / path.relative_to(work)
        if target.parent.name == BUNDLES and (target / MANIFEST).exists():  # of the same run, published again
            os.replace(target, work / f"{OLD}{path.name}")
        if target.exists():
            raise RunError(
                f"{target} was not written by a run and is in the way of one: "
                "move it away, then resume=true puts the finished run in its place"
            )
        target.parent.mkdir(exist_ok=True)
        os.replace(path, target)
    (directory / REPLACED).unlink(missing_ok=True)
    shutil.rmtree(work)


def _set_old_aside(work: Path, directory: Path) -> None:
    """Move the files of the run in ``directory`` to ``work``; its run.json, which lists them, until the last stays."""
    if (directory / MANIFEST).exists():  # from here on, until the new one arrives, this is no run
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
    """Return what goes to the run's place: its files, and each of its bundles by itself."""
    paths = [path for path in work.iterdir() if path.name != BUNDLES and not path.name.startswith(OLD)]
    return paths + list((work / BUNDLES).glob("*"))
