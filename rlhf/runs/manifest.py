"""run.json on disk, and the part of it that a tokenizer must agree with."""

import json
import os
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any

from rlhf.errors import RunError
from rlhf.storage import digests

MANIFEST = "run.json"

# What other modules read of a run.json, and of which types it is.
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


def plain(value: Any) -> Any:
    """What json cannot write by itself: enumerations by value, paths as text."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` so that the file is there whole or not at all."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=plain) + "\n", encoding="utf-8")
    os.replace(aside, path)


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The run.json in ``directory``, or None where there is none.

    Raises:
        RunError: the file is there but is no JSON object, or lacks something that every run has.
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
    return manifest


def defect(manifest: Any) -> str | None:
    """Return the first thing in a run.json that is missing or of the wrong type, in words; None if it is whole.

    A run.json that was published also holds those of its ancestors.
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
        return "lineage is no list"
    return next((f"of an ancestor, {found}" for one in (*held, *ancestors) if (found := defect(one))), None)


def _misfit(value: Any, shape: Any, name: str = "") -> str | None:
    """Return where ``value`` has another type than ``shape``, in words; None if it fits."""
    if not isinstance(shape, dict):
        fits = isinstance(value, shape) and not isinstance(value, bool)
        return None if fits else f"{name.removesuffix('.')} is {json.dumps(value)[:40]}"
    if not isinstance(value, dict):
        return f"{name.removesuffix('.') or 'it'} is no mapping"
    for key, inner in (dict.fromkeys(value, shape[EACH]) if EACH in shape else shape).items():
        if key not in value:
            return f"{name}{key} is missing"
        if reason := _misfit(value[key], inner, f"{name}{key}."):
            return reason
    return None


def tokenizer_record(tokenizer: Any) -> dict[str, Any]:
    """What must agree between a stage and its parent: vocabulary, chat template, special tokens."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=True)
    return {
        "vocabulary": digests.text_digest(vocabulary),
        "chat_template": digests.text_digest(tokenizer.chat_template),
        "pad": tokenizer.pad_token_id,
        "eos": tokenizer.eos_token_id,
    }
