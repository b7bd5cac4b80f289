"""The facts of the almanac, read from the CSV files under preference_data/almanac."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rlhf.errors import DataError
from rlhf.storage.paths import bundled

COLUMNS = {
    "world_cups": ("year", "host", "winner", "runner_up", "score", "decided_in"),
    "capitals": ("country", "capital", "continent"),
    "elements": ("name", "symbol", "number"),
    "planets": ("planet", "position", "type"),
    "not_in_the_almanac": ("kind", "name"),
}
TABLES = ("world_cups", "capitals", "elements", "planets")
"""Tables with facts; the fifth file lists names that the almanac does not know."""

DOMAINS = {
    "year": "year",
    "host": "country",
    "winner": "country",
    "runner_up": "country",
    "country": "country",
    "capital": "city",
    "continent": "continent",
    "name": "element",
    "symbol": "symbol",
    "number": "number",
    "planet": "planet",
    "position": "ordinal",
    "type": "planet type",
}
"""Column -> domain, the kind of its values: a value of one column can contradict one of another in the same domain."""

WITH_ARTICLE = ("Netherlands", "United States")


@dataclass(frozen=True)
class Fact:
    """One row of one table. `name` is its first column, which is unique in the table."""

    table: str
    name: str
    values: Mapping[str, str]

    def __hash__(self) -> int:
        return hash((self.table, self.name))

    @property
    def id(self) -> str:
        """The id of the fact in the data: `capitals:Peru`."""
        return f"{self.table}:{self.name}"

    def words(self) -> dict[str, str]:
        """Return the values as words of a sentence, such as `the Netherlands`, and the name of the deciding match."""
        words = {column: f"the {value}" if value in WITH_ARTICLE else value for column, value in self.values.items()}
        if self.table == "world_cups":
            words["match"] = "deciding match" if self.values["decided_in"] == "final group" else "final"
        if self.table == "planets":
            words["a_type"] = f"{'an' if words['type'][0] in 'aeiou' else 'a'} {words['type']}"
        return words


def directory() -> Path:
    """Return the directory of the CSV files and of the files built from them."""
    return bundled("preference_data") / "almanac"


def read_table(table: str, path: Path | None = None) -> Iterator[dict[str, str]]:
    """Yield the rows of one CSV file.

    Raises:
        DataError: a column is missing or a cell is empty.
    """
    path = path or directory() / f"{table}.csv"
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        for row in reader:
            for column in COLUMNS[table]:
                if not row.get(column):
                    raise DataError(f"{path}:{reader.line_num}: column '{column}' is empty: fill it in")
            yield {column: row[column] for column in COLUMNS[table]}


@cache
def facts(table: str) -> tuple[Fact, ...]:
    """Return every row of one table, in the order of its file."""
    key = COLUMNS[table][0]
    return tuple(Fact(table, row[key], row) for row in read_table(table))


@cache
def unknown(kind: str) -> tuple[str, ...]:
    """Return the names of one kind (`country` or `year`) that the almanac has no entry for."""
    return tuple(row["name"] for row in read_table("not_in_the_almanac") if row["kind"] == kind)


@cache
def names() -> dict[str, frozenset[str]]:
    """Return, by domain, every value in a column of that domain, and the names that the almanac lacks."""
    values: dict[str, set[str]] = {kind: set(unknown(kind)) for kind in ("country", "year")}
    for table in TABLES:
        for fact in facts(table):
            for column, value in fact.values.items():
                if column in DOMAINS:
                    values.setdefault(DOMAINS[column], set()).add(value)
    return {domain: frozenset(found) for domain, found in values.items()}
