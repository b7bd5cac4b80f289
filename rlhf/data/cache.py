"""Rows that were read or tokenized before, as Arrow tables on disk: memory stays small, and later runs start warm.

    <data.cache>/<key>/rows.arrow    the rows
    <data.cache>/<key>/meta.json     digest, size and time of the rows, and the counts of the pass that made them

The key is a digest of the content of the source, the settings, the tokenizer if there is one, and the code of this
package. The folder can be deleted at any time; a table that does not match its digest is rebuilt. Files of 64 MiB and
more are read for their digest only if their size or time of modification has changed.
"""

import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
ASIDE = f".partial-{platform.node()}-"  # prefix of the tables that processes of this machine write
LARGE = 2**26  # bytes
BATCH = 1000  # rows that are converted, tokenized or written at a time


@cache
def code_digest() -> str:
    """Return the digest of the modules that turn sources into rows."""
    return digests.files_digest(Path(__file__).parent.glob("*.py"))


def key_of(*parts: Any) -> str:
    """Return a digest of ``parts``, which are JSON values, and of the code."""
    content = json.dumps([code_digest(), *parts], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def batches(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield ``rows`` in lists of at most ``size``."""
    iterator = iter(rows)
    while batch := list(islice(iterator, size)):
        yield batch


class Writer:
    """A writer that appends batches of rows to an Arrow file."""

    def __init__(self, path: Path):
        self._sink, self._stream = path.open("wb"), None
        self.count = 0

    def write(self, rows: Sequence[Mapping[str, Any]], schema: "pyarrow.Schema") -> None:
        """Append rows, at least one; ``schema`` is the same in every call."""
        self.append(record_batch(rows, schema))

    def append(self, batch: "pyarrow.RecordBatch") -> None:
        """Append a batch of rows, which has the schema of the first one."""
        import pyarrow

        if self._stream is None:
            self._stream = pyarrow.ipc.new_stream(self._sink, batch.schema)
        self._stream.write_batch(batch)
        self.count += batch.num_rows

    def close(self) -> None:
        """Finish and close the file."""
        if self._stream is not None:
            self._stream.close()
        self._sink.close()


def record_batch(rows: Sequence[Mapping[str, Any]], schema: "pyarrow.Schema") -> "pyarrow.RecordBatch":
    """Return rows as a batch of columns."""
    import pyarrow

    return pyarrow.RecordBatch.from_pylist(rows, schema=schema)


def table(
    folder: str, key: str, what: str, build: Callable[[Writer], dict[str, Any]]
) -> tuple["Dataset | None", dict[str, Any]]:
    """Return the table under ``key``, built by ``build`` if missing, None without rows; and the value of ``build``.

    A table is written aside and then moved, so that it is complete or absent.

    Raises:
        DataError: the folder cannot be written, or an error of ``build``.
    """
    place = Path(folder).expanduser() / key
    meta = _read(place, what)
    if meta is None:
        try:
            meta = _make(place, build)
        except OSError as error:
            raise DataError(
                f"data.cache={folder} cannot be written ({error.strerror or error}): set another folder"
            ) from error
    return _open(place / ROWS, key) if meta["rows"] else None, meta["told"]


def holds(folder: str, key: str) -> bool:
    """Return whether a valid table is under ``key``."""
    return _read(Path(folder).expanduser() / key, "a table") is not None


def value(folder: str, key: str, compute: Callable[[], Any]) -> Any:
    """Return the JSON value under ``key``, computed if it is missing: for values that need a pass over all rows."""
    return table(folder, key, "a count", lambda _: {"value": compute()})[1]["value"]


def content_digest(folder: str, path: Path) -> str:
    """Return the sha256 of a file; that of a large one is cached in ``folder`` until its size or time changes."""
    state = path.stat()
    if state.st_size < LARGE or time.time_ns() - state.st_mtime_ns < digests.SETTLED:
        return digests.once(path)
    key = key_of("digest", str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ino)
    return value(folder, key, lambda: digests.file_digest(path))


def _stamp(path: Path) -> list[int]:
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def _read(place: Path, what: str) -> dict[str, Any] | None:
    if not place.exists():
        return None
    try:
        meta = json.loads((place / META).read_text(encoding="utf-8"))
        stamp = _stamp(place / ROWS)
        if stamp[0] >= LARGE and stamp == meta["stamp"]:
            return meta
        if digests.once(place / ROWS) == meta["digest"]:
            return meta
    except (OSError, ValueError, KeyError, TypeError):
        pass
    console.print(f"{what}: its table in data.cache is damaged and is rebuilt", style="dim", markup=False)
    shutil.rmtree(place, ignore_errors=True)
    return None


def _make(place: Path, build: Callable[[Writer], dict[str, Any]]) -> dict[str, Any]:
    place.parent.mkdir(parents=True, exist_ok=True)
    _delete_abandoned(place.parent)
    aside = Path(tempfile.mkdtemp(prefix=f"{ASIDE}{os.getpid()}-", dir=place.parent))
    try:
        writer = Writer(aside / ROWS)
        try:
            built = build(writer)
        finally:
            writer.close()
        meta = {"digest": digests.file_digest(aside / ROWS), "rows": writer.count, "told": built}
        meta["stamp"] = _stamp(aside / ROWS)
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
    """Delete the unfinished tables of dead processes of this machine."""
    for path in folder.glob(f"{ASIDE}*-*"):
        owner = path.name.removeprefix(ASIDE).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def _open(path: Path, key: str) -> "Dataset":
    import datasets
    from datasets.table import MemoryMappedTable

    return datasets.Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=key)
