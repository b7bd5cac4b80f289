"""Read and check run.json."""

import json
from pathlib import Path
from types import NoneType
from typing import Any

from rlhf.errors import RunError
from rlhf.storage.renamed import new_manifest

MANIFEST = "run.json"

# The keys of a run.json that other modules read, and their types.
NUMBER, TEXT, EACH = (int, float), (str, NoneType), object()  # EACH stands for all keys of a mapping
PARENT = {"path": str, "stage": TEXT, "digest": TEXT, "revision": TEXT}
SHAPE = {
    "stage": str, "name": str, "status": str, "command": TEXT, "seed": (int, NoneType), "dtype": str, "content": dict,
    "parents": {EACH: PARENT},
    "settings": {"checkpoints": str, "stage": dict, "data": {"name": str, "path": TEXT}, "adapter": {"kind": str}},
    "data": {EACH: {EACH: {"rows": int}}},
}  # fmt: skip
FINISHED = {"weights": TEXT, "finished": str, "seconds": NUMBER, "metrics": {EACH: NUMBER}}
OPTIONAL = {"output": TEXT, "trained_weights": TEXT, "tokenizer": dict, "versions": dict, "peak_memory_gib": NUMBER}


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """Return the run.json in ``directory``; None if it does not exist.

    Raises:
        RunError: the file is not a JSON object, or a key is missing or of the wrong type.
    """
    path = directory / MANIFEST
    remedy = "delete the directory and run the stage again"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error}): {remedy}") from error
    if (reason := defect(manifest)) is not None:
        raise RunError(f"{path} is not a run's manifest of this version ({reason}): {remedy}")
    return new_manifest(manifest)


def defect(manifest: Any) -> str | None:
    """Return the first key of a run.json that is missing or of the wrong type, in words; None if it is valid.

    A published run.json also holds those of its ancestors.
    """
    reason = _misfit(manifest, SHAPE)
    if reason is None and manifest["status"] == "finished":
        reason = _misfit(manifest, FINISHED)
    reason = reason or _misfit(manifest, {key: kind for key, kind in OPTIONAL.items() if key in manifest})
    if reason is not None:
        return reason
    data = manifest["settings"]["data"]
    sources = {kind: {"path": TEXT} for kind in manifest["data"] if kind in data}
    if reason := _misfit(data, sources, "settings.data."):
        return reason
    held = [record["run"] for record in manifest["parents"].values() if "run" in record]
    ancestors = manifest.get("lineage", [])
    if not isinstance(ancestors, list):
        return "lineage is not a list"
    return next((f"in an ancestor, {found}" for ancestor in (*held, *ancestors) if (found := defect(ancestor))), None)


def _misfit(value: Any, shape: Any, name: str = "") -> str | None:
    """Return the first place at which ``value`` differs from the types of ``shape``, in words; None if it fits."""
    if not isinstance(shape, dict):
        fits = isinstance(value, shape) and not isinstance(value, bool)
        return None if fits else f"{name.removesuffix('.')} is {json.dumps(value)[:40]}"
    if not isinstance(value, dict):
        return f"{name.removesuffix('.') or 'it'} is not a mapping"
    for key, inner in (dict.fromkeys(value, shape[EACH]) if EACH in shape else shape).items():
        if key not in value:
            return f"{name}{key} is missing"
        if reason := _misfit(value[key], inner, f"{name}{key}."):
            return reason
    return None
