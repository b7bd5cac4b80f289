"""Read one split of one source into a table on disk, and print a line with its counts."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf.config import Format, Pairing, Source
from rlhf.console import console, printable
from rlhf.data import cache
from rlhf.data.conversion import Rules, convert
from rlhf.data.formats import Kind
from rlhf.data.pairs import UNPAIRED
from rlhf.data.sources import path_of, placed_rows
from rlhf.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

UNITS = {"oasst": "message trees"}  # the word for a row, in layouts whose rows hold several


class NoRowsError(DataError):
    """A source was read and has no row of the requested kind."""


announced: set[str] = set()  # lines that this run has printed: a file is read once per split


class Table(NamedTuple):
    """All rows of a split, and the counts of the pass that read them: see rlhf.data.conversion."""

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
    processes: int | None = 1,
) -> Table:
    """Return all rows of the split ``name``, from the cache in ``folder`` if they were read before.

    ``processes``: the number for large files, None for one per core: see rlhf.data.workers.count.

    Without ``strict``, rows that cannot be read are left out and counted, and pairs of equal responses are kept:
    stage=inspect shows these faults, and training refuses them. With ``columns``, rows keep all columns of the file as
    JSON text.

    Raises:
        DataError: see rlhf.data.load.load_source.
        NoRowsError: no row is of ``kind``.
    """
    content, placed = placed_rows(source, kind, name, folder)
    rules = Rules(kind, source.format, source.drop_identical, pairing, strict, columns)
    key = cache.key_of(content, rules._asdict() | {"pairing": asdict(pairing)})
    rows, told = cache.table(folder, key, path_of(source), lambda writer: convert(placed, rules, writer, processes))
    if rows is None:
        remedy = ": stage=kto trains on them" if kind == "preferences" and UNPAIRED in told["left_out"] else ""
        raise NoRowsError(f"{source.path}: there is no row of {kind}{_counts(told)}{remedy}")
    line = _line(source, kind, told)
    if tell and line not in announced and (_counts(told) or told["unread"] or source.format is Format.auto):
        announced.add(line)
        console.print(line, style="dim", markup=False, highlight=False)
    return Table(rows.select_columns(told["columns"], new_fingerprint=key), told)


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
