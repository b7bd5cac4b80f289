"""run.json on disk, and the part of it that a tokenizer must agree with."""

import json
import os
from enum import Enum
from pathlib import Path
from typing import Any

from rlhf.errors import RunError
from rlhf.storage import digests

MANIFEST = "run.json"


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
        RunError: the file is there but is no JSON object.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): delete the directory and run the stage again") from error
    if not isinstance(manifest, dict):
        raise RunError(f"{path} is not a run's manifest: delete the directory and run the stage again")
    return manifest


def tokenizer_record(tokenizer: Any) -> dict[str, Any]:
    """What must agree between a stage and its parent: vocabulary, chat template, special tokens."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=True)
    return {
        "vocabulary": digests.text_digest(vocabulary),
        "chat_template": digests.text_digest(tokenizer.chat_template),
        "pad": tokenizer.pad_token_id,
        "eos": tokenizer.eos_token_id,
    }
