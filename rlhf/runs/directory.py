"""The directory that a run is written in: claimed for one process, emptied, moved into its place."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

from rlhf.errors import RunError
from rlhf.storage.json_files import MANIFEST

LOCK = ".lock"
BUNDLES = "bundles"  # in a run of stage=publish, what goes up: each folder has a run.json, and none is a run
JOBS = ".jobs"  # in a folder of a sweep's members: the records of its jobs (rlhf.evaluation.sweeps.jobs)
MEMBER = "member-"  # begins the name of what belongs to an ensemble's run: a second run inside it, replaced with it


def partial(directory: Path) -> Path:
    """Where a run is written until it is finished."""
    return directory.parent / f".{directory.name}.partial"


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


def move(work: Path, directory: Path) -> None:
    """Put a finished run in its place. The directory may hold an old run, and the members of a sweep, which stay."""
    (work / LOCK).unlink(missing_ok=True)
    if not directory.exists() or not any(directory.iterdir()):  # Hydra makes an empty one for a member of a sweep
        os.rename(work, directory)
        return
    (directory / MANIFEST).unlink(missing_ok=True)  # from here on, until the new one arrives, this is no run
    for path in directory.iterdir():
        own = path.name == BUNDLES or path.name.startswith(MEMBER)
        if path.name == JOBS:
            continue
        if path.is_dir() and (own or not any(path.rglob(MANIFEST))):
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
    for path in sorted(work.iterdir(), key=lambda p: p.name == MANIFEST):
        os.replace(path, directory / path.name)
    work.rmdir()
