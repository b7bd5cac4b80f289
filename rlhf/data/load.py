"""From a `Source` in the settings to a `datasets.Dataset` of one kind and one split, on disk.

A split that the source does not have is made: validation is held out from train by prompt, and test falls back to
validation. Which prompts are held out depends on the prompt and the seed alone, so a prompt that occurs in the
demonstrations, in the pairs and in the prompts is on the same side in all of them.

Rows stream: they are read, converted and written a thousand at a time (rlhf.data.cache). What stays in memory is eight
bytes a row to divide a split, at most 32 a distinct prompt for a source of prompts, and thumbs or single ratings that
wait for their counterpart.
"""

import random
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rlhf.config import Data, Format, Pairing, Source
from rlhf.data import cache
from rlhf.data.checks import oddities
from rlhf.data.files import Placed
from rlhf.data.formats import FIELDS, LABELS, NUMBERS, Converter, Kind, detect
from rlhf.data.rows import Row, RowError, is_blank, prompt_key, unit_hash
from rlhf.data.seen import Seen
from rlhf.data.sources import Split, placed_rows, plan, source_of
from rlhf.errors import DataError
from rlhf.progress import console

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset


def load(data: Data, kind: Kind, split: Split, seed: int) -> "Dataset":
    """The rows of one kind and split; ``data.path`` stands in for the four sources where it is given.

    Raises:
        DataError: see `load_source`.
    """
    given = {"holdout": data.holdout, "pairing": data.pairing, "cache_folder": data.cache}
    return load_source(source_of(data, kind), kind, split, seed=seed, **given)


def load_source(
    source: Source, kind: Kind, split: Split, *, seed: int, holdout: float, pairing: Pairing, cache_folder: str
) -> "Dataset":
    """The rows of ``split``, read as ``kind``: the columns of `formats.FIELDS` and the optional ones that are there.

    ``holdout`` is the share of distinct prompts of the training split that validation takes where the source has no
    split of its own for it. ``source.limit`` rows, of a held-out split ``source.held_out_limit``, are drawn with
    ``seed`` and stay in their order. Of a mix, as many rows of each part are drawn as its weight allows without
    repeating one; a row's ``source`` is the part where it has none of its own.

    Raises:
        DataError: the source is missing or unreachable, a row is invalid (file, line, field and remedy are named), a
            pair has equal completions, or no row is left.
    """
    if not source.paths:
        raise DataError(f"data.{kind}.path is null, so there are no {kind}: give a file with data.{kind}.path=my.jsonl")
    parts = [
        _load_part(replace(source, path=path, mix=None), kind, split, seed, holdout, pairing, cache_folder)
        for path in source.paths
    ]
    rows = parts[0] if source.mix is None else _mixed(parts, source.mix, kind, seed)
    limit = source.limit if split == "train" else source.held_out_limit
    return _drawn(rows, limit, seed) if limit is not None else rows


def _drawn(rows: "Dataset", count: int, seed: int) -> "Dataset":
    if count >= len(rows):
        return rows
    return _select(rows, sorted(random.Random(seed).sample(range(len(rows)), count)), "drawn", count, seed)


def _select(rows: "Dataset", indices: Any, *reason: Any) -> "Dataset":
    return rows.select(indices, new_fingerprint=cache.key_of(rows._fingerprint, *reason))


def _mixed(parts: list["Dataset"], mix: dict[str, float], kind: Kind, seed: int) -> "Dataset":
    """Exact shares, none repeated: the part that is scarcest for its weight is taken whole."""
    from datasets import concatenate_datasets

    scale = min(len(rows) / weight for rows, weight in zip(parts, mix.values(), strict=True))
    counts = [max(round(scale * weight), 1) for weight in mix.values()]
    drawn = [_drawn(rows, count, seed) for rows, count in zip(parts, counts, strict=True)]
    if len({str(rows.features["prompt" if kind != "text" else "text"]) for rows in drawn}) > 1:
        raise DataError(
            f"data.{kind}.mix: prompts are text in one part and conversations in another: mix like with like"
        )
    named = [
        rows if "source" in rows.column_names else rows.add_column("source", [path] * len(rows))
        for path, rows in zip(mix, drawn, strict=True)
    ]
    told = ", ".join(
        f"{len(rows)} of {len(part)} rows of {path}" for path, rows, part in zip(mix, drawn, parts, strict=True)
    )
    console.print(f"data.{kind}.mix: {told}", style="dim", markup=False, highlight=False)
    return concatenate_datasets(named)


def _load_part(
    source: Source, kind: Kind, split: Split, seed: int, holdout: float, pairing: Pairing, folder: str
) -> "Dataset":
    name, held_out = plan(source, kind, split)
    content, placed = placed_rows(source, kind, name)
    settings = {"format": source.format.value, "drop_identical": source.drop_identical, **asdict(pairing)}
    key = cache.key_of(content, kind, settings)
    rows, told = cache.table(folder, key, source.path, lambda writer: _convert(placed, source, kind, pairing, writer))
    _tell(source, kind, told)
    if rows is None:
        raise DataError(f"{source.path}: there is no row of {kind}{_counts(told)}")
    rows = rows.select_columns(told["columns"])
    return rows if held_out is None else _part(rows, held_out, seed, holdout, source.path)


def _convert(
    placed: Iterator[Placed], source: Source, kind: Kind, pairing: Pairing, writer: cache.Writer
) -> dict[str, Any]:
    """Convert, check, count and write; the counts are what is told and kept."""
    converter, seen, types = Converter(kind, pairing), Seen(), {}
    layouts, kept, dropped = Counter(), Counter(), Counter()
    columns: dict[str, None] = {}
    whys: dict[str, str] = {}
    read = 0

    def converted() -> Iterator[Row]:
        nonlocal read
        for place, raw in placed:
            read += 1
            layout, why = detect(raw) if source.format is Format.auto else (source.format, "the settings say so")
            layouts[layout.value] += 1
            whys.setdefault(layout.value, why)
            try:
                for row in converter(raw, layout):
                    _check_types(row, types, kind)
                    if reason := _omission(row, kind, seen, place, source.drop_identical):
                        dropped[reason] += 1
                        continue
                    kept.update(oddities(row))
                    columns.update(dict.fromkeys(row))
                    yield row
            except RowError as error:
                raise DataError(f"{place}: {error}") from None
        converter.finish()

    for batch in cache.batches(converted()):
        writer.write(batch, _schema(kind, batch[0]))
    return {
        "read": read,
        "rows": writer.count,
        "layouts": layouts,
        "why": whys,
        "oddities": kept,
        "left_out": dropped + converter.left_out,
        "columns": list(columns),
    }


def _schema(kind: Kind, first: Row) -> "pyarrow.Schema":
    import pyarrow

    message = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
    columns = {
        field: pyarrow.list_(message) if isinstance(first[field], list) else pyarrow.string() for field in FIELDS[kind]
    }
    columns |= dict.fromkeys(LABELS, pyarrow.string()) | dict.fromkeys(NUMBERS, pyarrow.float64())
    return pyarrow.schema(list(columns.items()))


def _counts(told: dict[str, Any]) -> str:
    found = "".join(f", {n} with {what}" for what, n in told["oddities"].items())
    return found + "".join(f"; left out {n} {what}" for what, n in told["left_out"].items())


def _tell(source: Source, kind: Kind, told: dict[str, Any]) -> None:
    """One line says how the rows were read and what was found or left out."""
    if told["rows"] and (_counts(told) or source.format is Format.auto):
        ways = " and ".join(
            f"{name}{f' ({n})' if len(told['layouts']) > 1 else ''}, because {told['why'][name]}"
            for name, n in told["layouts"].items()
        )
        many = "" if told["read"] == told["rows"] else f" from {told['read']}"
        line = f"{source.path}: {told['rows']} rows of {kind}{many} read as {ways}{_counts(told)}"
        console.print(line, style="dim", markup=False, highlight=False)


def _check_types(row: Row, types: dict[str, str], kind: Kind) -> None:
    """Prompts are all text or all conversations, and a margin is in every pair or in none: what training needs."""
    found = {field: "a conversation" if isinstance(row[field], list) else "text" for field in FIELDS[kind]}
    if kind == "preferences":
        found["margin"] = "a number" if "margin" in row else "absent"
    for field, name in found.items():
        if types.setdefault(field, name) != name:
            raise RowError(field, f"is {name}, in earlier rows it is {types[field]}: it must be one in all rows")


def _omission(row: Row, kind: Kind, seen: Seen, place: str, drop_identical: bool) -> str | None:
    """Why a valid row is left out, None where it stays."""
    if kind == "preferences" and row["chosen"] == row["rejected"]:
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
    if kind == "prompts" and not seen.add(prompt_key(row)):
        return "with a repeated prompt"
    return None


def _part(rows: "Dataset", held_out: bool, seed: int, holdout: float, path: str) -> "Dataset":
    """The held-out rows or the others: those whose prompt hashes below ``holdout``, at least one prompt a side."""
    import numpy

    field = "prompt" if "prompt" in rows.column_names else "text"
    hashes = array("d")
    for batch in rows.select_columns([field]).iter(cache.BATCH):
        hashes.extend(unit_hash(seed, prompt_key({field: value})) for value in batch[field])
    hashes = numpy.frombuffer(hashes)
    distinct = numpy.unique(hashes)
    if len(distinct) < 2:
        raise DataError(f"{path}: all rows have the same prompt, so none can be held out: name a validation split")
    count = min(max(int((distinct < holdout).sum()), 1), len(distinct) - 1)
    chosen = hashes <= distinct[count - 1]
    return _select(rows, numpy.flatnonzero(chosen == held_out), "part", held_out, seed, holdout)
