"""The origin of a run, for its run.json: digests, versions, git revision, hardware."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import psutil

from rlhf.storage.paths import PACKAGE

PACKAGES = ("rlhf", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "tokenizers", "hydra-core")
SETTLED = 2 * 10**9  # nanoseconds after which a file that changes again has another time


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def once(path: Path) -> str:
    """Return `file_digest`, for which this process reads the file again only if its size or time has changed."""
    state = path.stat()
    if time.time_ns() - state.st_mtime_ns < SETTLED:
        return file_digest(path)
    return _known(path.resolve(), state.st_size, state.st_mtime_ns, state.st_ino)


@cache
def _known(path: Path, *state: int) -> str:
    return file_digest(path)


def files_digest(paths: Iterable[Path]) -> str:
    """Return the sha256 over names and contents of ``paths``, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        digest.update(f"{path.name}\0{once(path)}\n".encode())
    return digest.hexdigest()


def weights_digest(folder: Path) -> str | None:
    """Return the digest of the weights in a model folder; None if it has no weights."""
    weights = weights_in(folder)
    return files_digest(weights) if weights else None


def weights_in(folder: Path) -> list[Path]:
    """Return the files of the weights in a model folder."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.gguf"))


def text_digest(text: str | None) -> str | None:
    """Return the sha256 of a text, in hexadecimal; None for None."""
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def tokenizer_record(tokenizer: Any) -> dict[str, Any]:
    """Return the properties that a stage and its parent must share: vocabulary, chat template, special tokens."""
    return {
        "vocabulary": vocabulary_digest(tokenizer),
        "chat_template": text_digest(tokenizer.chat_template),
        "pad": tokenizer.pad_token_id,
        "eos": tokenizer.eos_token_id,
    }


_vocabularies: WeakKeyDictionary[Any, tuple[Any, str | None]] = WeakKeyDictionary()  # tokenizer -> state and digest


def vocabulary_digest(tokenizer: Any) -> str | None:
    """Return the sha256 of a tokenizer's tokens and ids; it is computed again only if tokens or the backend change."""
    added = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
    state = (getattr(tokenizer, "backend_tokenizer", None), tokenizer.vocab_size, added)
    known, digest = _vocabularies.get(tokenizer, (None, None))
    if known != state:
        digest = text_digest(json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=True))
        _vocabularies[tokenizer] = state, digest
    return digest


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed ``PACKAGES``."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """Return the commit of the checkout that holds this package, with ``-dirty`` appended; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != PACKAGE.parent:
            return None
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def hardware() -> dict[str, Any]:
    """Return machine, system and CPU cores; with torch imported, its threads and GPU, too."""
    facts: dict[str, Any] = {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()}
    if (torch := sys.modules.get("torch")) is not None:  # torch is not imported for this
        facts["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            facts["gpu"] = torch.cuda.get_device_name()
    return facts


def peak_memory_gib() -> float:
    """Return the largest resident memory of this process so far, in GiB."""
    return round(peak_memory() / 2**30, 3)


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # psutil has no peak here, and Windows no getrusage(2)

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
