"""Sealed folders: a manifest of sha256 digests is written last, after every file has been flushed to the disk."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from rlhf.console import console
from rlhf.errors import RunError
from rlhf.storage.digests import file_digest

DIGESTS = "digests.json"


def number(path: Path) -> int:
    """Return the number at the end of a name: 12 for ``checkpoint-12`` and ``update-12``."""
    return int(path.name.rpartition("-")[2])


def seal(folder: Path) -> None:
    """Write the digests of all files of ``folder`` and flush everything to the disk.

    The digests detect accidental and manual changes. They are not signatures: anyone with write access to the folder
    can rewrite them.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DIGESTS)
    digests = {str(path.relative_to(folder)): file_digest(path) for path in files}
    aside = folder / f".{DIGESTS}"
    aside.write_text(json.dumps(digests, indent=1), encoding="utf-8")
    for path in (*files, aside):
        sync(path)
    os.replace(aside, folder / DIGESTS)
    for path in {path.parent for path in files} | {folder}:
        sync(path)


def sync(path: Path) -> None:
    """Flush a file or the entries of a directory to the disk; otherwise a rename may reach it before its file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fault(folder: Path) -> str | None:
    """Return the first defect of a sealed folder, in words; None if it is intact."""
    try:
        items = json.loads((folder / DIGESTS).read_text(encoding="utf-8")).items()
    except (OSError, ValueError, AttributeError):
        return f"{DIGESTS} cannot be read"
    for name, digest in items:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if file_digest(path) != digest:
            return f"{name} does not match its checksum"
    return None


def resumable(folder: Path, pattern: str, title: str) -> list[Path]:
    """Return the sealed folders that match ``pattern``, by number. Report unfinished ones, and if no folder is left."""
    matching = sorted(folder.glob(pattern), key=number)
    sealed = [path for path in matching if (path / DIGESTS).exists()]
    for path in matching:
        if path not in sealed:
            console.print(f"{title}: {path.name} is incomplete and is skipped", soft_wrap=True)
    if not sealed:
        message = "no checkpoint was written before the interruption, so it starts from the beginning"
        console.print(f"{title}: {message}", soft_wrap=True)
    return sealed


def newest_whole(folders: Sequence[Path], title: str) -> Path | None:
    """Return the intact folder with the highest number, None without folders. Report the corrupted ones above it.

    Raises:
        RunError: every folder is corrupted. A silent restart would discard the progress that the user asked to resume,
            and hide that the disk loses data.
    """
    faults = []
    for folder in sorted(folders, key=number, reverse=True):
        reason = fault(folder)
        if reason is None:
            for name, why in faults:
                console.print(f"{title}: {name} is corrupted ({why}), so {folder.name} is used", soft_wrap=True)
            return folder
        faults.append((folder.name, reason))
    if faults:
        reasons = ", ".join(f"{name}: {reason}" for name, reason in faults)
        raise RunError(
            f"no checkpoint in {folders[0].parent} is intact ({reasons}): "
            "start again with overwrite=true instead of resume=true"
        )
    return None
