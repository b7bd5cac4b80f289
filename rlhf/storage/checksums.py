"""Folders that are there whole: a manifest of sha256 digests is their last file, and everything is on the disk."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from rlhf.console import console
from rlhf.errors import RunError
from rlhf.storage.digests import file_digest

DIGESTS = "digests.json"


def number(path: Path) -> int:
    """``checkpoint-12`` and ``update-12`` -> 12."""
    return int(path.name.rpartition("-")[2])


def seal(folder: Path) -> None:
    """Write the digests of all files of ``folder``, and have everything on the disk before this returns.

    A digest tells bytes that have changed, by chance or by hand; it is no signature: whoever can write the folder can
    write its digests too.
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
    """Have a file's bytes, or a directory's entries, on the disk: a rename may otherwise outlive what it renames."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fault(folder: Path) -> str | None:
    """What of a sealed folder is not as it was written; None where it is whole."""
    try:
        items = json.loads((folder / DIGESTS).read_text(encoding="utf-8")).items()
    except (OSError, ValueError, AttributeError):
        return f"{DIGESTS} cannot be read"
    for name, digest in items:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if file_digest(path) != digest:
            return f"{name} is not what was written"
    return None


def resumable(folder: Path, pattern: str, title: str) -> list[Path]:
    """The sealed folders among those that match; of one that a kill left unfinished, and of none at all, it tells."""
    found = sorted(folder.glob(pattern), key=number)
    sealed = [path for path in found if (path / DIGESTS).exists()]
    for path in found:
        if path not in sealed:
            console.print(f"{title}: {path.name} was not written to its end, and is passed over", soft_wrap=True)
    if not sealed:
        told = "no checkpoint was written before the interruption, so it starts from the beginning"
        console.print(f"{title}: {told}", soft_wrap=True)
    return sealed


def newest_whole(folders: Sequence[Path], title: str) -> Path | None:
    """The folder with the highest number that is whole; None where there are no folders. Says which it passes over.

    Raises:
        RunError: there are folders, but none is whole. To start again without a word would throw away what the user
            asked to go on from, and hide that the disk loses bytes.
    """
    faults = []
    for folder in sorted(folders, key=number, reverse=True):
        reason = fault(folder)
        if reason is None:
            for passed, why in faults:
                console.print(f"{title}: {passed} is torn ({why}), so {folder.name} is used", soft_wrap=True)
            return folder
        faults.append((folder.name, reason))
    if faults:
        told = ", ".join(f"{name}: {reason}" for name, reason in faults)
        raise RunError(
            f"no checkpoint in {folders[0].parent} is whole ({told}): "
            "overwrite=true in place of resume=true starts again"
        )
    return None
