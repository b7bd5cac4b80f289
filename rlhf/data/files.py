"""Rows of a local file, each with its place: ``path:line``, or ``path row n`` in a file without lines."""

import codecs
import contextlib
import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from rlhf.data.rows import Row
from rlhf.errors import DataError

Placed = tuple[str, Row]
Unparsed = tuple[str, Row | bytes]  # a row, or its line of JSON: see `row_of`


def read_json_lines(path: Path) -> Iterator[Placed]:
    """Yield the JSON object of each line that is not blank. Lines are parsed singly, so that errors name them."""
    for place, line in json_lines(path):
        yield place, row_of(place, line)


def json_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the lines that are not blank with their places."""
    with _open(path) as file:
        for number, raw in enumerate(file, start=1):
            if raw.strip().removeprefix(codecs.BOM_UTF8):
                yield f"{path}:{number}", raw


def row_of(place: str, raw: Row | bytes) -> Row:
    """Return a row; a line of JSON is parsed."""
    return raw if isinstance(raw, dict) else _as_row(_parse(_decode(raw, place).strip(), place), place)


def read_json(path: Path) -> Iterator[Placed]:
    """Yield the objects of a list; a file with one object per line is read as JSON lines, whatever its name."""
    with _open(path) as file:
        content = _decode(file.read(), str(path)).strip()
    if not content.startswith("["):
        yield from read_json_lines(path)
        return
    for number, value in enumerate(_parse(content, str(path)), start=1):
        place = f"{path} row {number}"
        yield place, _as_row(value, place)


def read_csv(path: Path) -> Iterator[Placed]:
    """Yield the rows below a header; an empty cell is a missing field."""
    csv.field_size_limit(sys.maxsize)  # the default, 128 KiB, is shorter than a long conversation
    with _open(path) as file:
        reader = csv.DictReader((_decode(raw, f"{path}:{n}") for n, raw in enumerate(file, start=1)), strict=True)
        rows = iter(reader)
        while True:
            try:
                row = next(rows, None)
            except csv.Error as error:
                raise DataError(f"{path}:{reader.reader.line_num}: invalid CSV ({error})") from None
            if row is None:
                return
            place = f"{path}:{reader.line_num}"
            if None in row:
                raise DataError(f"{place}: has more values than the header has columns: quote values with commas")
            yield place, {field: value or None for field, value in row.items()}


def read_parquet(path: Path) -> Iterator[Placed]:
    """Yield the rows of a Parquet file, with JSON inside their values parsed."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            decoders = {field.name: decode for field in file.schema_arrow if (decode := _json_decoder(field.type))}
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                place = f"{path} row {number}"
                yield place, row | {name: decode(row[name], place) for name, decode in decoders.items()}
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({_first_line(error)})") from None


def _json_decoder(kind: Any) -> Callable[[Any, str], Any] | None:
    """Return a function that parses the JSON inside values of an Arrow type; None if the type has no JSON.

    datasets writes objects with different fields as JSON.
    """
    import pyarrow

    if isinstance(kind, pyarrow.JsonType):
        return lambda value, place: None if value is None else _parse(value, place)
    if pyarrow.types.is_struct(kind):
        inner = {field.name: decode for field in kind if (decode := _json_decoder(field.type))}
        if inner:
            return lambda value, place: value and value | {name: of(value[name], place) for name, of in inner.items()}
    elif pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        item: Any = _json_decoder(kind.value_type)
        if item is not None:
            return lambda value, place: value and [item(one, place) for one in value]
    return None


READERS: dict[str, Callable[[Path], Iterator[Placed]]] = {
    ".jsonl": read_json_lines,
    ".jsonl.gz": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".json.gz": read_json,
    ".csv": read_csv,
    ".csv.gz": read_csv,
    ".parquet": read_parquet,
}


def reader_of(path: Path) -> Callable[[Path], Iterator[Placed]] | None:
    """Return the reader for a file of this name; None if the suffix is unknown."""
    name = path.name.lower()
    return next((reader for suffix, reader in READERS.items() if name.endswith(suffix)), None)


def read_rows(path: Path) -> Iterator[Placed]:
    """Yield the rows of a JSONL, JSON, CSV or Parquet file; the first three may be gzipped.

    Raises:
        DataError: the file cannot be read, its suffix is unknown, or it contains an invalid row.
    """
    for place, raw in unparsed_rows(path):
        yield place, row_of(place, raw)


def unparsed_rows(path: Path) -> Iterator[Unparsed]:
    """Yield the rows of a file like `read_rows`, those of JSON lines unparsed.

    Raises:
        DataError: see `read_rows`.
    """
    reader = reader_of(path)
    if reader is None:
        raise DataError(f"{path}: the name of a data file must end in one of {', '.join(READERS)}")
    yield from json_lines(path) if reader is read_json_lines else reader(path)


@contextlib.contextmanager
def _open(path: Path) -> Generator[gzip.GzipFile | io.BufferedReader]:
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({_first_line(error)})") from None


def _decode(raw: bytes, place: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 ({error.reason}): convert the file to UTF-8") from None


def _parse(content: str, place: str) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: invalid JSON ({error.msg}, column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: invalid JSON ({_first_line(error)})") from None


def _as_row(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{place}: every row must be a JSON object, got {type(value).__name__}")
    return value


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
