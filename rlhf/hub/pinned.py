"""A model or a data set on the Hub at one commit, and its run.json if this package published it.

A branch moves, so a run records the commit that it starts from. One process reads one commit per revision.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rlhf.config.publish import COMMIT
from rlhf.errors import HubError
from rlhf.storage.manifest import MANIFEST, defect

OURS = {"stage", "status", "weights", "parents", "settings", "metrics"}  # some trackers write another run.json
# The files that a model is loaded from: no pickles, no code.
PARTS = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken")
SECONDS = 10.0  # timeout of a request


@dataclass(frozen=True)
class Pinned:
    """The repository ``id`` at ``commit``, with the ``files`` and the ``license`` of its page."""

    id: str
    commit: str
    files: tuple[str, ...] = ()
    license: str | None = None


@cache
def pin(id: str, revision: str | None, kind: str = "model") -> Pinned | None:
    """Return the commit of ``revision`` (branch, tag or commit; None: main), from the cache if the Hub is unreachable.

    None if neither has it; the load that follows reports it.

    Raises:
        HubError: the Hub has no such repository or revision, or the token has no access to it.
    """
    from huggingface_hub import HfApi

    from rlhf.hub import faults

    try:
        info: Any = HfApi().repo_info(id, revision=revision, repo_type=kind, timeout=SECONDS)
    except faults.FAULTS as error:
        if faults.status(error) is not None:
            raise faults.told(error, f"{id}@{revision or 'main'}") from error
        if not faults.unreachable(error):
            raise
        return _cached(id, revision, kind)
    card = info.card_data or {}
    license = card.get("license_name") or card.get("license")
    files = tuple(sibling.rfilename for sibling in info.siblings or ())
    return Pinned(id, info.sha, files, license if isinstance(license, str) else None)


def _cached(id: str, revision: str | None, kind: str) -> Pinned | None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=id, repo_type=kind)
    reference = folder / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision
    if commit is None or not COMMIT.fullmatch(commit) or not (folder / "snapshots" / commit).is_dir():
        return None
    snapshot = folder / "snapshots" / commit
    return Pinned(id, commit, tuple(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*")))


@cache
def manifest_at(pinned: Pinned) -> dict[str, Any] | None:
    """Return the run.json of a run that this package published; None for any other repository.

    Raises:
        HubError: the file exists, but cannot be fetched or read.
    """
    if MANIFEST not in pinned.files:
        return None
    path = fetch(pinned, MANIFEST)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HubError(f"{pinned.id}@{pinned.commit}/{MANIFEST} is not JSON ({error}): use another revision") from error
    if not isinstance(found, dict) or not found.keys() >= OURS:
        return None
    if (reason := defect(found)) is not None:
        raise HubError(
            f"{pinned.id}@{pinned.commit}/{MANIFEST} is not one of this version ({reason}): use another revision"
        )
    return found


def fetch(pinned: Pinned, name: str) -> Path:
    """Return the path of one file of the repository, downloaded into the local cache.

    Raises:
        HubError: it cannot be fetched.
    """
    from huggingface_hub import hf_hub_download

    from rlhf.hub import faults

    try:
        return Path(hf_hub_download(pinned.id, name, revision=pinned.commit))
    except faults.FAULTS as error:
        raise faults.told(error, f"{pinned.id}@{pinned.commit}/{name}") from error


def snapshot(pinned: Pinned) -> Path:
    """Return the folder of a model, downloaded into the local cache.

    Raises:
        HubError: it cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    from rlhf.hub import faults

    try:
        return Path(snapshot_download(pinned.id, revision=pinned.commit, allow_patterns=list(PARTS)))
    except faults.FAULTS as error:
        raise faults.told(error, f"{pinned.id}@{pinned.commit}") from error
