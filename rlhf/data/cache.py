"""What was read or tokenised before, as Arrow tables on disk: nothing is held in memory, and a second start is warm.

    <data.cache>/<key>/rows.arrow    the rows
    <data.cache>/<key>/meta.json     the digest of the rows, and what was counted while they were made

The key is a digest of the content of the source, of the settings, of the tokenizer where there is one, and of the code
of this package. The folder can be deleted at any time; a table that does not match its digest is made anew.
"""

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from rlhf.console import console
from rlhf.errors import DataError
from rlhf.storage import digests

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

ROWS, META = "rows.arrow", "meta.json"
ASIDE = f".partial-{platform.node()}-"  # begins the name of a table that a process of this machine writes
BATCH = 1000  # rows that are converted, tokenised or written at a time


@cache
def code_digest() -> str:
    """Digest of the modules that make rows of what is read."""
    return digests.files_digest(Path(__file__).parent.glob("*.py"))


def key_of(*parts: Any) -> str:
    """A digest of ``parts``, which JSON can hold, and of the code."""
    content = json.dumps([code_digest(), *parts], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def batches(rows: Iterable[Any], size: int = BATCH) -> Iterator[list[Any]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, size)):
        yield batch


class Writer:
    """Appends rows to an Arrow file. The schema may be given when the first rows are there."""

    def __init__(self, path: Path):
        self._sink, self._stream, self._schema = path.open("wb"), None, None
        self.count = 0

    def write(self, rows: list[Mapping[str, Any]], schema: "pyarrow.Schema") -> None:
        import pyarrow

        if self._stream is None:
            self._stream, self._schema = pyarrow.ipc.new_stream(self._sink, schema), schema
        self._stream.write_batch(pyarrow.RecordBatch.from_pylist(rows, schema=self._schema))
        self.count += len(rows)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._sink.close()


def table(
    folder: str, key: str, what: str, build: Callable[[Writer], dict[str, Any]]
) -> tuple["Dataset | None", dict[str, Any]]:
    """The table under ``key``, made by ``build`` unless it is there, and what ``build`` returned; None without a row.

    It is written aside and then moved, so that a table is there whole or not at all.

    Raises:
        DataError: the folder cannot be written; and what ``build`` raises.
    """
    place = Path(folder).expanduser() / key
    meta = _read(place, what)
    if meta is None:
        try:
            meta = _make(place, build)
        except OSError as error:
            raise DataError(
                f"data.cache={folder} cannot be written ({error.strerror or error}): give another folder"
            ) from error
    return _open(place / ROWS, key) if meta["rows"] else None, meta["told"]


def holds(folder: str, key: str) -> bool:
    """Whether ``table`` would find what it is asked for."""
    return _read(Path(folder).expanduser() / key, "a table") is not None


def value(folder: str, key: str, compute: Callable[[], Any]) -> Any:
    """A JSON value under ``key``, computed unless it is there: what takes a pass over all rows to know."""
    _, told = table(folder, key, "a count", lambda _: {"value": compute()})
    return told["value"]


def _read(place: Path, what: str) -> dict[str, Any] | None:
    if not place.exists():
        return None
    try:
        meta = json.loads((place / META).read_text(encoding="utf-8"))
        if digests.file_digest(place / ROWS) == meta["digest"]:
            return meta
    except (OSError, ValueError, KeyError, TypeError):
        pass
    console.print(f"{what}: what data.cache holds of it is damaged and is made anew", style="dim", markup=False)
    shutil.rmtree(place, ignore_errors=True)
    return None


def _make(place: Path, build: Callable[[Writer], dict[str, Any]]) -> dict[str, Any]:
    place.parent.mkdir(parents=True, exist_ok=True)
    _delete_abandoned(place.parent)
    aside = Path(tempfile.mkdtemp(prefix=f"{ASIDE}{os.getpid()}-", dir=place.parent))
    try:
        writer = Writer(aside / ROWS)
        try:
            told = build(writer)
        finally:
            writer.close()
        meta = {"digest": digests.file_digest(aside / ROWS), "rows": writer.count, "told": told}
        (aside / META).write_text(json.dumps(meta), encoding="utf-8")
        try:
            os.rename(aside, place)
        except OSError:
            if not (place / META).exists():  # else another process was faster, with the same rows
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return meta


def _delete_abandoned(folder: Path) -> None:
    """Delete tables that processes of this machine have begun and are not there to finish."""
    for path in folder.glob(f"{ASIDE}*-*"):
        owner = path.name.removeprefix(ASIDE).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def _open(path: Path, key: str) -> "Dataset":
    import datasets
    from datasets.table import MemoryMappedTable

    return datasets.Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=key)
