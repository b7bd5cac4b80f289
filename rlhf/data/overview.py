"""The data that stage=inspect shows: each split of each source unchanged, and the splits that stages hold out."""

from dataclasses import replace
from itertools import islice
from typing import Any

from rlhf.config import Data, Pairing, Source
from rlhf.data.files import row_of
from rlhf.data.formats import KINDS, Kind, kinds_of
from rlhf.data.load import load
from rlhf.data.reading import NoRowsError, Table, read
from rlhf.data.sources import Split, path_of, placed_rows, plan, source_of
from rlhf.data.splits import leaks_between
from rlhf.errors import DataError

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
FIRST = 100  # rows that decide what a file is


def tables(data: Data) -> dict[tuple[Kind, str, str], Table]:
    """Return all rows by (kind, path, split), before validation is held out and before a limit.

    Raises:
        DataError: no source is set, or one cannot be read.
    """
    found: dict[tuple[Kind, str, str], Table] = {}
    given: dict[str, Any] = {"pairing": data.pairing, "folder": data.cache, "processes": data.processes}
    given |= {"tell": True, "strict": False}
    if data.path is not None:
        return _of_path(source_of(data, "preferences"), given)
    for kind in KINDS:
        source: Source = getattr(data, kind)
        for path in source.paths:
            part = replace(source, path=path, mix=None)
            for name in dict.fromkeys(plan(part, kind, split)[0] for split in SPLITS):
                found[kind, path, name] = read(part, kind, name, **given)
    if not found:
        raise DataError("there is nothing to inspect: set data.path=my.jsonl, or a preset with data=<name>")
    return found


def _of_path(source: Source, given: dict[str, Any]) -> dict[tuple[Kind, str, str], Table]:
    """Read ``data.path`` as the richest kind that one of its first rows can be read as."""
    found: dict[tuple[Kind, str, str], Table] = {}
    problem: DataError | None = None
    for name in dict.fromkeys(plan(source, "preferences", split)[0] for split in SPLITS):
        for kind in _kinds(source, name, given["pairing"], given["folder"]):
            try:
                found[kind, path_of(source), name] = read(source, kind, name, **given)
                break
            except NoRowsError as error:  # such as thumbs, if no prompt has one up and one down
                problem = problem or error
    if not found:
        raise problem or DataError(f"{source.path}: there is no row")
    return found


def kinds_at(data: Data) -> list[Kind]:
    """Return the kinds of rows that ``data.path`` can be read as, by its first rows.

    Raises:
        DataError: none of them can be read.
    """
    source = source_of(data, "preferences")
    return _kinds(source, plan(source, "preferences", "train")[0], data.pairing, data.cache)


def _kinds(source: Source, name: str, pairing: Pairing, folder: str) -> list[Kind]:
    """The kinds of the first row that is a pair, else of the first that can be read.

    Raises:
        DataError: none of the first rows can be read; the first is named.
    """
    found: list[list[Kind]] = []
    problem: DataError | None = None
    for place, raw in islice(placed_rows(source, "preferences", name, folder)[1], FIRST):
        row = row_of(place, raw)
        try:
            kinds = kinds_of(row, source.format, pairing)
        except DataError as error:
            problem = problem or DataError(f"{place}: {error}")
            continue
        if kinds:
            found.append(kinds)
        problem = problem or DataError(f"{place}: no format reads this row: its columns are {', '.join(row) or 'none'}")
    if not found and problem:
        raise problem
    return next((kinds for kinds in found if kinds[0] == "preferences"), found[0] if found else [])


def all_leaks(data: Data, kinds: list[Kind], seed: int) -> list[dict[str, Any]]:
    """Return the leaks of every training split into every held-out split, of the same kind and of others."""
    trained, held_out = {}, {}
    for kind in sorted(kinds, key=KINDS.index):
        for split in SPLITS:
            try:
                rows = load(data, kind, split, seed, tell=False, strict=False)
            except DataError:  # too few prompts to hold any out; a stage that needs them reports it
                continue
            (trained if split == "train" else held_out)[f"{kind} ({split})"] = rows
    same = {rows._fingerprint: name for name, rows in reversed(held_out.items())}  # test falls back to validation
    return [
        {"train": train, "held_out": name} | leaks_between(rows, held_out[name], data.cache)._asdict()
        for train, rows in trained.items()
        for name in sorted(same.values())
        if train.startswith("text") == name.startswith("text")
    ]
