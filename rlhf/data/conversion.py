"""One pass over the rows of a file: each is converted, checked, counted and written.

After the first rows, batches may be converted in other processes. A batch that depends on rows before it, such as a
thumb that waits for its counterpart, is converted again in order, so the table and the counts do not depend on the
number of processes.
"""

import json
from collections import Counter, deque
from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf.config import Format, Pairing
from rlhf.data import cache, workers
from rlhf.data.checks import digest, oddities
from rlhf.data.extras import COLUMNS, INSTRUCTIONS, LABELS, NUMBERS
from rlhf.data.files import Unparsed, row_of
from rlhf.data.formats import FIELDS, Converter, Kind
from rlhf.data.rows import Row, RowError, is_blank, prompt_key
from rlhf.data.singles import ORIGIN
from rlhf.errors import DataError

if TYPE_CHECKING:
    import pyarrow

TALK = "a conversation"
REPEATED = "with a repeated prompt"
RECENT = 2**17  # numbers in the set of `Digests`
Batch = list[Unparsed]


class Rules(NamedTuple):
    """Settings of a conversion: see rlhf.data.reading.read."""

    kind: Kind
    format: Format
    drop_identical: bool
    pairing: Pairing
    strict: bool
    columns: bool


def convert(placed: Iterator[Unparsed], rules: Rules, writer: cache.Writer, processes: int | None) -> dict[str, Any]:
    """Convert, check, count and write all rows; return the counts.

    Raises:
        DataError: a row is invalid, or a worker ended.
    """
    conversion, batches = Conversion(rules), cache.batches(placed, cache.BATCH)
    if (count := workers.count(processes)) > 1:
        conversion.write(islice(batches, workers.ENOUGH // cache.BATCH), writer)
        batches = _together(conversion, batches, writer, count)
    conversion.write(batches, writer)
    conversion.converter.finish()
    return conversion.told(writer.count)


def _together(
    conversion: "Conversion", batches: Iterator[Batch], writer: cache.Writer, processes: int
) -> Iterator[Batch]:
    """Convert batches in several processes until one waits for another; return those that remain."""
    if (first := next(batches, None)) is None or conversion.waits:
        return chain([] if first is None else [first], batches)
    given: deque[Batch] = deque()

    def tasks() -> Iterator[Batch]:
        for batch in chain([first], batches):
            given.append(batch)
            yield batch

    for found in workers.mapped(_alone, (conversion.rules,), tasks(), processes):
        batch = given.popleft()
        if found is None or not conversion.fits(found[0]):
            conversion.write([batch], writer)
        else:
            conversion.add(*found, writer)
        if conversion.waits:
            break
    return chain(given, batches)


def _alone(rules: Rules, batch: Batch) -> "tuple[Conversion, pyarrow.RecordBatch | None] | None":
    """Convert a batch in a worker. None if it depends on other rows, or has an error that the parent reports."""
    conversion = Conversion(rules)
    try:
        rows = conversion.rows(batch)
    except DataError:
        return None
    return None if conversion.waits else (conversion, cache.record_batch(rows, conversion.schema()) if rows else None)


class Digests:
    """A set of numbers below 2**64 that only grows, in eight bytes each: an array with a small set before it."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted: Any = None

    def add(self, number: int) -> bool:
        """Add a number; return whether it is new."""
        import numpy

        if number in self._recent:
            return False
        if self._sorted is not None:
            place = self._sorted.searchsorted(numpy.uint64(number))
            if place < len(self._sorted) and self._sorted[place] == number:
                return False
        self._recent.add(number)
        if len(self._recent) == RECENT:
            both = [numpy.fromiter(self._recent, numpy.uint64), *([] if self._sorted is None else [self._sorted])]
            self._sorted = numpy.sort(numpy.concatenate(both), kind="stable")
            self._recent.clear()
        return True


class Conversion:
    """The counts of a pass, and what it must know of earlier rows."""

    def __init__(self, rules: Rules):
        self.rules = rules
        self.converter = Converter(rules.kind, rules.pairing, rules.columns)
        self.types: dict[str, str] = {}
        self.seen = Digests()
        self.digests: list[int] = []  # of the prompts of a batch, for another conversion
        self.kept: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.filled: dict[str, None] = {}
        self.read = 0
        self.problem: str | None = None

    @property
    def waits(self) -> bool:
        """Whether a response waits for a counterpart in a later row."""
        return self.converter.waits

    def write(self, batches: Iterator[Batch] | list[Batch], writer: cache.Writer) -> None:
        """Convert batches and write their rows."""
        for batch in batches:
            if rows := self.rows(batch):
                self._append(cache.record_batch(rows, self.schema()), writer)
            self.digests.clear()

    def _append(self, rows: "pyarrow.RecordBatch", writer: cache.Writer) -> None:
        self.filled.update(dict.fromkeys(n for n in rows.schema.names if rows.column(n).null_count < rows.num_rows))
        writer.append(rows)

    def rows(self, batch: Batch) -> list[Row]:
        """Return the converted rows of a batch.

        Raises:
            DataError: a row is invalid; without ``strict``, only if it is not a JSON object.
        """
        return [row for place, raw in batch for row in self._rows(place, row_of(place, raw))]

    def _rows(self, place: str, raw: Row) -> Iterator[Row]:
        self.read += 1
        try:
            for row in self.converter.read(raw, self.rules.format):
                self._check_types(row)
                if reason := self._omission(row, place):
                    self.dropped[reason] += 1
                    continue
                self.kept.update(oddities(row))
                yield self._stored(row)
        except RowError as error:
            problem = DataError(f"{place}: {error}")
            if self.rules.strict:
                raise problem from None
            self.problem = self.problem or str(problem)
            self.dropped["rows that cannot be read"] += 1

    def fits(self, later: "Conversion") -> bool:
        """Return whether the columns of a later batch have the types of this one's."""
        return all(self.types.get(field, name) == name for field, name in later.types.items())

    def add(self, later: "Conversion", rows: "pyarrow.RecordBatch | None", writer: cache.Writer) -> None:
        """Add the counts of a later batch, and write its ``rows`` without prompts that this one has seen."""
        self.converter.add(later.converter)
        self.types.update(later.types)
        self.kept.update(later.kept)
        self.dropped.update(later.dropped)
        self.read += later.read
        self.problem = self.problem or later.problem
        if rows is not None and self.rules.kind == "prompts":
            new = [self.seen.add(key) for key in later.digests]
            self.dropped[REPEATED] += new.count(False)
            rows = rows.filter(new)
        if rows is not None and rows.num_rows:
            self._append(rows, writer)

    def told(self, rows: int) -> dict[str, Any]:
        """Return the counts of the pass."""
        converter = self.converter
        return {
            "read": self.read,
            "rows": rows,
            "layouts": converter.counts,
            "why": converter.layouts,
            "unread": list(converter.unread),
            "oddities": self.kept + converter.kept,
            "left_out": self.dropped + converter.left_out,
            "singles": converter.singles.told(),
            "problem": self.problem,  # the first row that cannot be read
            "columns": list(self.filled),
        }

    def schema(self) -> "pyarrow.Schema":
        """Return the schema of the stored rows, in which conversations are JSON."""
        import pyarrow

        fields = FIELDS[self.rules.kind]
        columns = {field: pyarrow.json_() if self.types[field] == TALK else pyarrow.string() for field in fields}
        columns |= dict.fromkeys((*LABELS, COLUMNS, ORIGIN), pyarrow.string()) | dict.fromkeys(
            NUMBERS, pyarrow.float64()
        )
        columns |= dict.fromkeys(INSTRUCTIONS, pyarrow.list_(pyarrow.string()))
        return pyarrow.schema(list(columns.items()))

    def _stored(self, row: Row) -> Row:
        """Return a row with conversations and arguments of instructions as JSON text: their keys differ."""
        if "kwargs" in row:
            row = row | {"kwargs": [json.dumps(arguments) for arguments in row["kwargs"]]}
        talks = {name: row[name] for name in FIELDS[self.rules.kind] if isinstance(row[name], list)}
        return row | {name: json.dumps(talk, ensure_ascii=False) for name, talk in talks.items()}

    def _check_types(self, row: Row) -> None:
        """Check that prompts are all text or all conversations, and that all pairs have a margin or no pair has one."""
        kind = self.rules.kind
        found = {field: TALK if isinstance(row[field], list) else "text" for field in FIELDS[kind]}
        if kind == "preferences":
            found["margin"] = "a number" if "margin" in row else "absent"
        for field, name in found.items():
            if self.types.setdefault(field, name) != name:
                message = f"is {name}, in earlier rows it is {self.types[field]}: make it the same in all rows"
                raise RowError(field, message)

    def _omission(self, row: Row, place: str) -> str | None:
        """Return why a valid row is left out; None if it is kept."""
        kind = self.rules.kind
        if kind == "preferences" and row["chosen"] == row["rejected"]:
            if not self.rules.drop_identical and not self.rules.strict:
                return None
            if not self.rules.drop_identical:
                raise DataError(
                    f"{place}: chosen and rejected are the same, which teaches nothing: correct the row, or leave out "
                    "all such rows with data.preferences.drop_identical=true"
                )
            return "with chosen and rejected the same"
        if kind == "demonstrations" and is_blank(row["completion"]):
            return "with an empty completion"
        if kind == "text" and is_blank(row["text"]):
            return "with an empty text"
        if kind == "prompts":
            key = digest(prompt_key(row))
            if not self.seen.add(key):
                return REPEATED
            self.digests.append(key)
        return None
