"""From a `Source` in the settings to a `datasets.Dataset` of one kind and one split.

A split that the source does not have is made: validation is held out from train by prompt, and test falls back to
validation. Which prompts are held out depends on the prompt and the seed alone, so a prompt that occurs in the
demonstrations, in the pairs and in the prompts is on the same side in all of them.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlhf.config import Data, Format, Source
from rlhf.data.checks import oddities
from rlhf.data.files import READERS, Placed, read_rows, reader_of
from rlhf.data.formats import Kind, convert, detect
from rlhf.data.rows import Row, RowError, is_blank, prompt_key, unit_hash
from rlhf.errors import DataError
from rlhf.hub.pinned import pin
from rlhf.progress import console

if TYPE_CHECKING:
    from datasets import Dataset

Split = Literal["train", "validation", "test"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def load(data: Data, kind: Kind, split: Split, seed: int) -> "Dataset":
    """The rows of one kind and split; ``data.path`` stands in for the four sources where it is given.

    Raises:
        DataError: see `load_source`.
    """
    return load_source(source_of(data, kind), kind, split, seed=seed, holdout=data.holdout)


def source_of(data: Data, kind: Kind) -> Source:
    """The source of ``kind``: what ``data.path`` names, with the splits that it has, or the preset's own."""
    source: Source = getattr(data, kind)
    if data.path is None:
        return source
    splits = {"train": "train", "validation": None, "test": None}
    return replace(source, path=data.path, format=data.format, subset=None, revision=None, **splits)


def load_source(source: Source, kind: Kind, split: Split, *, seed: int, holdout: float) -> "Dataset":
    """The rows of ``split``, read as ``kind``: the columns of `formats.FIELDS` and the optional ones that are there.

    ``holdout`` is the share of distinct prompts of the training split that validation takes where the source has no
    split of its own for it. ``source.limit`` rows, of a held-out split ``source.held_out_limit``, are drawn with
    ``seed`` and stay in their order.

    Raises:
        DataError: the source is missing or unreachable, a row is invalid (file, line, field and remedy are named), a
            pair has equal completions, or no row is left.
    """
    from datasets import Dataset

    if source.path is None:
        raise DataError(f"data.{kind}.path is null, so there are no {kind}: give a file with data.{kind}.path=my.jsonl")
    name, held_out = _plan(source, kind, split)
    rows = _read(_split_rows(source, kind, name), source, kind)
    if held_out is not None:
        rows = _part(rows, held_out, seed, holdout, source.path)
    limit = source.limit if split == "train" else source.held_out_limit
    if limit is not None and len(rows) > limit:
        rows = [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), limit))]
    columns = dict.fromkeys(field for row in rows for field in row)
    return Dataset.from_dict({field: [row.get(field) for row in rows] for field in columns})


def _plan(source: Source, kind: Kind, split: Split) -> tuple[str, bool | None]:
    """Name of the split to read, and which part of it to take: held-out (True), the rest (False), all of it (None).

    One local file has no splits, so the names of a preset's do not apply to it.
    """
    path = Path(source.path).expanduser()
    names = {"train": source.train, "validation": source.validation, "test": source.test}
    for name in ("validation", "test"):
        if path.is_file():
            if names[name] is not None and reader_of(Path(names[name])) is not None:
                raise DataError(
                    f"data.{kind}.{name}={names[name]} names a file beside {path}: put both into one folder, as "
                    f"train.jsonl and {name}.jsonl, and give the folder as data.{kind}.path"
                )
            names[name] = None
        elif names[name] is None and path.is_dir() and _split_files(path, name):
            names[name] = name
    if split == "test" and names["test"] is None:
        split = "validation"
    if names["validation"] is None and split != "test":
        return names["train"], split == "validation"
    return names[split], None


def _split_files(folder: Path, name: str) -> list[Path]:
    return sorted(file for file in folder.glob(f"{name}.*") if file.name[len(name) :].lower() in READERS)


def _split_rows(source: Source, kind: Kind, name: str) -> Iterator[Placed]:
    path = Path(source.path).expanduser()
    if path.is_file():
        return read_rows(path)
    if path.is_dir():
        files = _split_files(path, name)
        if len(files) != 1:
            found = f"{len(files)} files" if files else "no file"
            raise DataError(f"{path}: has {found} for the split {name!r}: there must be one, such as {name}.jsonl")
        return read_rows(files[0])
    if HUB_ID.fullmatch(source.path) and reader_of(path) is None:
        return _hub_rows(source, kind, name)
    raise DataError(
        f"{path}: there is no such file or folder (data.path or data.{kind}.path); give one that exists, or a Hub id"
    )


def _hub_rows(source: Source, kind: Kind, name: str) -> Iterator[Placed]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    path, _, revision = source.path.partition("@")
    pinned = pin(path, source.revision or revision or None, "dataset")
    commit = source.revision or revision or None if pinned is None else pinned.commit
    try:
        dataset = load_dataset(path, name=source.subset, revision=commit, split=name)
    except (OSError, ValueError, DatasetsError, HfHubHTTPError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{source.path}: the split {name!r} cannot be read ({reason}); there is no such folder here, so check the "
            f"Hub id and the connection, or give a local file with data.{kind}.path=my.jsonl"
        ) from None
    for number, row in enumerate(dataset, start=1):
        yield f"{path} {name} row {number}", row


def _read(placed: Iterable[Placed], source: Source, kind: Kind) -> list[Row]:
    """Convert, check and count. One line says how the rows were read and what was found or left out."""
    layout, why = source.format, "the settings say so"
    rows: list[Row] = []
    seen: set[str] = set()
    types: dict[str, str] = {}
    kept, dropped = Counter(), Counter()
    for place, raw in placed:
        if layout is Format.auto:
            layout, why = detect(raw)
        try:
            row = convert(raw, layout, kind)
            _check_types(row, types, kind)
        except RowError as error:
            raise DataError(f"{place}: {error}") from None
        if reason := _omission(row, kind, seen, place, source.drop_identical):
            dropped[reason] += 1
            continue
        kept.update(oddities(row))
        rows.append(row)
    found = "".join(f", {n} with {what}" for what, n in kept.items())
    found += "".join(f"; left out {n} {what}" for what, n in dropped.items())
    if not rows:
        raise DataError(f"{source.path}: there is no row of {kind}{found}")
    if found or source.format is Format.auto:
        told = f"{source.path}: {len(rows)} rows of {kind} read as {layout.value}, because {why}{found}"
        console.print(told, style="dim", markup=False, highlight=False)
    return rows


def _check_types(row: Row, types: dict[str, str], kind: Kind) -> None:
    """A column holds one type, and a margin is in every pair or in none: an Arrow table can hold nothing else."""
    found = {field: _type_of(value) for field, value in row.items()}
    if kind == "preferences":
        found.setdefault("margin", "absent")
    for field, name in found.items():
        if types.setdefault(field, name) != name:
            raise RowError(field, f"is {name}, in earlier rows it is {types[field]}: it must be one in all rows")


def _type_of(value: Any) -> str:
    if isinstance(value, list):
        return "a conversation"
    if isinstance(value, str):
        return "text"
    return "true or false" if isinstance(value, bool) else "a number"


def _omission(row: Row, kind: Kind, seen: set[str], place: str, drop_identical: bool) -> str | None:
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
    if kind == "prompts":
        key = prompt_key(row)
        if key in seen:
            return "with a repeated prompt"
        seen.add(key)
    return None


def _part(rows: list[Row], held_out: bool, seed: int, holdout: float, path: str) -> list[Row]:
    """The held-out rows or the others: those whose prompt hashes below ``holdout``, at least one prompt a side."""
    hashes = {key: unit_hash(seed, key) for key in map(prompt_key, rows)}
    if len(hashes) < 2:
        raise DataError(f"{path}: all rows have the same prompt, so none can be held out: name a validation split")
    order: list[Any] = sorted(hashes, key=hashes.__getitem__)
    count = sum(value < holdout for value in hashes.values())
    chosen = set(order[: min(max(count, 1), len(order) - 1)])
    return [row for row in rows if (prompt_key(row) in chosen) is held_out]
