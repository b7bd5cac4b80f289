"""Read one split of one source row by row into a table on disk: convert, check and count its rows, and print a line."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf.config import Format, Pairing, Source
from rlhf.console import console, printable
from rlhf.data import cache
from rlhf.data.checks import digest, oddities
from rlhf.data.files import Placed
from rlhf.data.formats import COLUMNS, FIELDS, INSTRUCTIONS, LABELS, NUMBERS, Converter, Kind
from rlhf.data.pairs import UNPAIRED
from rlhf.data.rows import Row, RowError, is_blank, prompt_key
from rlhf.data.sources import path_of, placed_rows
from rlhf.errors import DataError

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

UNITS = {"oasst": "message trees"}  # the word for a row, in layouts whose rows hold several
TALK = "a conversation"


class NoRowsError(DataError):
    """A source was read and has no row of the requested kind."""


announced: set[str] = set()  # lines that this run has printed: a file is read once per split


class Table(NamedTuple):
    """All rows of a split, and the counts of the pass that read them: see `_convert`."""

    rows: "Dataset"
    told: dict[str, Any]


def read(
    source: Source,
    kind: Kind,
    name: str,
    *,
    pairing: Pairing,
    folder: str,
    tell: bool,
    strict: bool = True,
    columns: bool = False,
) -> Table:
    """Return all rows of the split ``name``, from the cache in ``folder`` if they were read before.

    Without ``strict``, rows that cannot be read are left out and counted, and pairs of equal responses are kept:
    stage=inspect shows these faults, and training refuses them. With ``columns``, rows keep all columns of the file as
    JSON text.

    Raises:
        DataError: see rlhf.data.load.load_source.
        NoRowsError: no row is of ``kind``.
    """
    content, placed = placed_rows(source, kind, name)
    settings = {"format": source.format, "drop_identical": source.drop_identical, "strict": strict, **asdict(pairing)}
    settings |= {"columns": columns}
    key = cache.key_of(content, kind, settings)
    rows, told = cache.table(
        folder, key, path_of(source), lambda writer: _convert(placed, source, kind, pairing, writer, strict, columns)
    )
    if rows is None:
        remedy = ": stage=kto trains on them" if kind == "preferences" and UNPAIRED in told["left_out"] else ""
        raise NoRowsError(f"{source.path}: there is no row of {kind}{_counts(told)}{remedy}")
    line = _line(source, kind, told)
    if tell and line not in announced and (_counts(told) or told["unread"] or source.format is Format.auto):
        announced.add(line)
        console.print(line, style="dim", markup=False, highlight=False)
    return Table(rows.select_columns(told["columns"], new_fingerprint=key), told)


def _convert(
    placed: Iterator[Placed],
    source: Source,
    kind: Kind,
    pairing: Pairing,
    writer: cache.Writer,
    strict: bool,
    columns: bool,
) -> dict[str, Any]:
    """Convert, check, count and write rows; return the counts."""
    converter, seen, types = Converter(kind, pairing, columns), set(), {}
    kept, dropped = Counter(), Counter()
    filled: dict[str, None] = {}
    read, unreadable = 0, []

    def converted() -> Iterator[Row]:
        nonlocal read
        for place, raw in placed:
            read += 1
            try:
                for row in converter.read(raw, source.format):
                    _check_types(row, types, kind)
                    if reason := _omission(row, kind, seen, place, source.drop_identical, strict):
                        dropped[reason] += 1
                        continue
                    kept.update(oddities(row))
                    filled.update(dict.fromkeys(row))
                    yield _stored(row, kind)
            except RowError as error:
                unreadable.append(DataError(f"{place}: {error}"))
                if strict:
                    raise unreadable[0] from None
                dropped["rows that cannot be read"] += 1
        converter.finish()

    for batch in cache.batches(converted()):
        writer.write(batch, _schema(types, kind))
    return {
        "read": read,
        "rows": writer.count,
        "layouts": converter.counts,
        "why": converter.layouts,
        "unread": list(converter.unread),
        "oddities": kept + converter.kept,
        "left_out": dropped + converter.left_out,
        "thumbs": converter.thumbs,
        "problem": str(unreadable[0]) if unreadable else None,  # the first row that cannot be read
        "columns": list(filled),
    }


def _stored(row: Row, kind: Kind) -> Row:
    """Return a row with conversations and arguments of instructions as JSON text: their keys differ."""
    if "kwargs" in row:
        row = row | {"kwargs": [json.dumps(arguments) for arguments in row["kwargs"]]}
    talks = {name: row[name] for name in FIELDS[kind] if isinstance(row[name], list)}
    return row | {name: json.dumps(talk, ensure_ascii=False) for name, talk in talks.items()}


def _schema(types: dict[str, str], kind: Kind) -> "pyarrow.Schema":
    """Return the schema of the stored rows, in which conversations are JSON."""
    import pyarrow

    columns = {field: pyarrow.json_() if types[field] == TALK else pyarrow.string() for field in FIELDS[kind]}
    columns |= dict.fromkeys((*LABELS, COLUMNS), pyarrow.string()) | dict.fromkeys(NUMBERS, pyarrow.float64())
    columns |= dict.fromkeys(INSTRUCTIONS, pyarrow.list_(pyarrow.string()))
    return pyarrow.schema(list(columns.items()))


def _counts(told: dict[str, Any]) -> str:
    found = "".join(f", {n} with {what}" for what, n in told["oddities"].items())
    lost = "".join(f"; left out {n} {what}" for what, n in told["left_out"].items())
    return found + lost + (f", the first: {told['problem']}" if told["problem"] else "")


def _line(source: Source, kind: Kind, told: dict[str, Any]) -> str:
    """Return a line on how the rows were read, with the counts of unusual and left-out rows."""
    several = len(told["layouts"]) > 1
    ways = "; ".join(f"{name}{f' {n}' if several else ''}: {told['why'][name]}" for name, n in told["layouts"].items())
    unit = "rows" if several else UNITS.get(next(iter(told["layouts"]), ""), "rows")
    many = "" if told["read"] == told["rows"] else f" from {told['read']} {unit}"
    named = "texts" if kind == "text" else kind
    return f"{source.path}: {told['rows']} {named}{many} ({ways}){_counts(told)}{_unread(told)}"


def _unread(told: dict[str, Any], most: int = 12) -> str:
    """Return the columns that no reader has read, as a clause."""
    names, more = [printable(name) for name in told["unread"][:most]], len(told["unread"]) - most
    return f"; not read: {', '.join(names)}{f' and {more} more' if more > 0 else ''}" if names else ""


def _check_types(row: Row, types: dict[str, str], kind: Kind) -> None:
    """Check that prompts are all text or all conversations, and that all pairs have a margin or no pair has one."""
    found = {field: TALK if isinstance(row[field], list) else "text" for field in FIELDS[kind]}
    if kind == "preferences":
        found["margin"] = "a number" if "margin" in row else "absent"
    for field, name in found.items():
        if types.setdefault(field, name) != name:
            raise RowError(field, f"is {name}, in earlier rows it is {types[field]}: make it the same in all rows")


def _omission(row: Row, kind: Kind, seen: set[int], place: str, drop_identical: bool, strict: bool) -> str | None:
    """Return why a valid row is left out; None if it is kept."""
    if kind == "preferences" and row["chosen"] == row["rejected"]:
        if not drop_identical and not strict:
            return None
        if not drop_identical:
            raise DataError(
                f"{place}: chosen and rejected are the same, which teaches nothing: correct the row, or leave out all "
                "such rows with data.preferences.drop_identical=true"
            )
        return "with chosen and rejected the same"
    if kind == "demonstrations" and is_blank(row["completion"]):
        return "with an empty completion"
    if kind == "text" and is_blank(row["text"]):
        return "with an empty text"
    if kind == "prompts":
        if (key := digest(prompt_key(row))) in seen:
            return "with a repeated prompt"
        seen.add(key)  # about 75 bytes per prompt, 0.75 GB for ten million, which themselves might not fit
    return None
