"""Load one kind and one split of a `Source` as a `datasets.Dataset` on disk.

A split that the source does not have is made: validation is held out from train by prompt, and test falls back to
validation. Whether a prompt is held out depends only on the prompt and the seed, so a prompt that occurs in the
demonstrations, the pairs and the prompts is on the same side in all of them.

Rows stream: they are read, converted and written a thousand at a time (rlhf.data.cache). Only this stays in memory:
eight bytes per row to divide a split, at most 32 bytes per distinct prompt for a source of prompts, and thumbs or
single ratings that wait for their counterpart.
"""

import os
import random
from array import array
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from rlhf.config import Data, Format, Pairing, Rankings, Source, Ties
from rlhf.console import console
from rlhf.data import cache
from rlhf.data.formats import Kind
from rlhf.data.reading import NoRowsError, read
from rlhf.data.rows import prompt_key, unit_hash
from rlhf.data.sources import Split, path_of, plan, source_name, source_of
from rlhf.errors import DataError
from rlhf.storage.paths import bundled

if TYPE_CHECKING:
    from datasets import Dataset


def load(
    data: Data, kind: Kind, split: Split, seed: int, tell: bool = True, strict: bool = True, columns: bool = False
) -> "Dataset":
    """Return the rows of one kind and split; ``data.path``, if set, replaces the four sources.

    ``tell`` prints how they were read; ``strict`` and ``columns``: see rlhf.data.reading.read.

    Raises:
        DataError: see `load_source`.
    """
    given: dict[str, Any] = {
        "holdout": data.holdout,
        "pairing": data.pairing,
        "folder": data.cache,
        "tell": tell,
        "strict": strict,
    }
    given |= {"columns": columns, "processes": data.processes}
    return load_source(source_of(data, kind), kind, split, seed=seed, **given)


def load_rows(
    path: str, kind: Kind, split: Split = "train", *, seed: int = 0, columns: bool = False, **settings: Any
) -> "Dataset":
    """Return the rows of a file, a folder or a Hub data set as ``kind``, with the defaults of conf/data/local.yaml.

    ``settings`` are those of a source, such as ``format="hh"`` or ``limit=100``, and ``holdout``. The rows of
    ``demonstrations`` have prompt and completion, those of ``preferences`` prompt, chosen and rejected, those of
    ``thumbs`` prompt, completion, and a label (1 or 0) or a rating. With ``columns``, they keep all columns of the
    file, for rlhf.rewards.Rows.

    Raises:
        DataError: the rows cannot be read as ``kind``.
        ConfigError: a setting is out of its range.
    """
    values = yaml.safe_load((bundled("conf") / "data" / "local.yaml").read_text(encoding="utf-8"))
    holdout = settings.pop("holdout", values["holdout"])
    chosen = values[source_name(kind)] | {"path": path} | settings
    source = Source(**chosen | {"format": Format(chosen["format"])})
    rules = values["pairing"]
    pairing = Pairing(**rules | {"rankings": Rankings(rules["rankings"]), "ties": Ties(rules["ties"])})
    folder = os.path.expanduser(os.environ.get("RLHF_CACHE", "~/.cache/rlhf"))
    given: dict[str, Any] = {"pairing": pairing, "folder": folder, "tell": False, "columns": columns}
    return load_source(source, kind, split, seed=seed, holdout=holdout, **given)


def load_source(
    source: Source,
    kind: Kind,
    split: Split,
    *,
    seed: int,
    holdout: float,
    pairing: Pairing,
    folder: str,
    tell: bool = True,
    strict: bool = True,
    columns: bool = False,
    processes: int | None = 1,
) -> "Dataset":
    """Return the rows of ``split``, read as ``kind``: the columns of `formats.FIELDS` and the optional ones.

    ``holdout`` is the share of distinct prompts of the training split that are held out for validation if the source
    has no validation split; 1 is the whole file. ``source.limit`` rows, or ``source.held_out_limit`` of a held-out
    split, are drawn with ``seed`` and keep their order. A mix has as many rows of each part as its weight allows
    without repetition; the ``source`` of a row defaults to its part.

    Raises:
        DataError: the source is missing or unreachable, a row is invalid (the message has file, line, field and
            remedy), a pair has equal completions, or no row is left.
    """
    if not source.paths:
        key = f"data.{source_name(kind)}.path"
        raise DataError(f"{key} is null, so there are no {kind}: set {key}=my.jsonl")
    given: dict[str, Any] = {"pairing": pairing, "folder": folder, "tell": tell, "strict": strict}
    given |= {"columns": columns, "processes": processes}
    single = [replace(source, path=path, mix=None) for path in source.paths]
    parts = [_load_part(part, kind, split, seed, holdout, **given) for part in single]
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
    """Return a mix with exact shares and without repetition: the scarcest part for its weight is taken whole."""
    from datasets import concatenate_datasets

    scale = min(len(rows) / weight for rows, weight in zip(parts, mix.values(), strict=True))
    counts = [max(round(scale * weight), 1) for weight in mix.values()]
    drawn = [_drawn(rows, count, seed) for rows, count in zip(parts, counts, strict=True)]
    if len({str(rows.features["prompt" if kind != "text" else "text"]) for rows in drawn}) > 1:
        raise DataError(
            f"data.{source_name(kind)}.mix: prompts are text in one part and conversations in another: "
            "use parts of the same type"
        )
    message = ", ".join(
        f"{len(rows)} of {len(part)} rows of {path}" for path, rows, part in zip(mix, drawn, parts, strict=True)
    )
    if any("margin" in rows.column_names for rows in drawn) and not all(
        "margin" in rows.column_names for rows in drawn
    ):
        message += "; margins are left out, since not every part has them"
        drawn = [rows.remove_columns([name for name in rows.column_names if name == "margin"]) for rows in drawn]
    console.print(f"data.{source_name(kind)}.mix: {message}", style="dim", markup=False, highlight=False)
    named = [
        rows if "source" in rows.column_names else rows.add_column("source", [path] * len(rows))
        for path, rows in zip(mix, drawn, strict=True)
    ]
    mixed = concatenate_datasets(named)
    identity = [[path, rows._fingerprint, len(part)] for path, rows, part in zip(mix, parts, drawn, strict=True)]
    return mixed.select(range(len(mixed)), new_fingerprint=cache.key_of("mixed", identity, seed))


def _load_part(source: Source, kind: Kind, split: Split, seed: int, holdout: float, **given: Any) -> "Dataset":
    name, held_out = plan(source, kind, split)
    rows = read(source, kind, name, **given).rows
    return rows if held_out is None else _part(rows, held_out, seed, holdout, path_of(source), given["folder"])


def _part(rows: "Dataset", held_out: bool, seed: int, holdout: float, path: str, folder: str) -> "Dataset":
    """Return the held-out rows or the others: prompts that hash below ``holdout``, at least one on each side.

    A ``holdout`` of 1 is the whole file. The places of the rows are cached.
    """
    if holdout == 1:
        if held_out:
            return rows
        raise NoRowsError(
            f"{path}: data.holdout=1 holds out every row, so none is left to train on: set a smaller share"
        )

    reason = ("part", held_out, seed, holdout)
    key = cache.key_of(rows._fingerprint, *reason)

    def build(writer: cache.Writer) -> dict[str, Any]:
        import pyarrow

        places = _places(rows, held_out, seed, holdout, path)
        writer.append(pyarrow.record_batch({"place": places}))
        return {}

    found, _ = cache.table(folder, key, path, build)
    assert found is not None
    return _select(rows, found.data.column("place").to_numpy(), *reason)


def _places(rows: "Dataset", held_out: bool, seed: int, holdout: float, path: str) -> Any:
    """Return the numbers of the held-out rows or of the others."""
    import numpy

    field = "prompt" if "prompt" in rows.column_names else "text"
    hashes = array("d")
    for batch in rows.select_columns([field]).iter(cache.BATCH):
        hashes.extend(unit_hash(seed, prompt_key({field: value})) for value in batch[field])
    hashes = numpy.frombuffer(hashes)
    distinct = numpy.unique(hashes)
    if len(distinct) < 2:
        raise DataError(f"{path}: all rows have the same prompt, so none can be held out: set a validation split")
    count = min(max(int((distinct < holdout).sum()), 1), len(distinct) - 1)
    chosen = hashes <= distinct[count - 1]
    return numpy.flatnonzero(chosen == held_out)
