"""The data sheet: what is in the data, what is wrong with it, and what a model will see. Nothing is trained.

    python -m rlhf stage=inspect                         # the embedded data
    python -m rlhf stage=inspect data.path=my.jsonl      # a file of your own, of any kind and layout

It writes report.md and data.json (numbers alone) into checkpoints/<name>/inspect.
"""

from dataclasses import replace
from typing import Any

from rlhf import models
from rlhf.config import Data, Settings, Source
from rlhf.data import load
from rlhf.data.formats import KINDS, kinds_of
from rlhf.data.reading import NoRowsError, Table, read
from rlhf.data.sheet import examples, sheet, usable
from rlhf.data.sheet_report import markdown, show
from rlhf.data.sources import Split, placed_rows, plan, source_of
from rlhf.data.splits import leaks_between
from rlhf.errors import DataError, ModelError
from rlhf.manifest import write_json
from rlhf.run import Run

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def run(settings: Settings, run: Run) -> dict[str, float]:
    stage, data, seed = settings.stage, settings.data, settings.seed
    tokenizer, notes = find_tokenizer(settings, run)
    found = tables(data)
    sheets = []
    for (kind, path, split), table in found.items():
        fits = None if tokenizer is None else usable(tokenizer, table)
        if fits is not tokenizer:
            notes.append(f"{path}: the tokenizer has no chat template for these conversations, so words are counted.")
        numbers = sheet(table, stage, fits, data.cache, seed)
        shown = examples(table.rows, fits, stage.examples, seed)
        sheets.append({"kind": kind, "path": path, "split": split, "sheet": numbers, "examples": shown})
        run.record_data(f"{kind}: {path}", split, table.rows)
    report = {"notes": notes, "sheets": sheets, "leaks": all_leaks(data, list({kind for kind, *_ in found}), seed)}
    (run.work / "report.md").write_text(markdown(report), encoding="utf-8")
    numbers = [{key: value for key, value in one.items() if key != "examples"} for one in sheets]
    write_json(run.work / "data.json", report | {"seed": seed, "sheets": numbers})
    show(report)
    return {
        "rows": sum(len(table.rows) for table in found.values()),
        "leaks": sum(one["count"] for one in report["leaks"]),
    }


def find_tokenizer(settings: Settings, run: Run) -> tuple[Any | None, list[str]]:
    """The tokenizer to count with; None where there is none, and a note that says so."""
    if "tokenizer" not in run.parents:
        return None, [f"Lengths are in words: there is no model at stage.tokenizer={settings.stage.tokenizer}."]
    try:
        return models.load_tokenizer(run["tokenizer"], settings.model), []
    except ModelError as error:
        return None, [f"Lengths are in words: {error}."]


def tables(data: Data) -> dict[tuple[str, str, str], Table]:
    """(kind, path, split) -> all rows, before validation is held out of them and before a limit, as they are read.

    Raises:
        DataError: there is nothing to read, or what there is cannot be read.
    """
    found: dict[tuple[str, str, str], Table] = {}
    given = {"pairing": data.pairing, "folder": data.cache, "tell": True}
    if data.path is not None:
        return _of_path(source_of(data, "preferences"), given)
    for kind in KINDS:
        source: Source = getattr(data, kind)
        for path in source.paths:
            part = replace(source, path=path, mix=None)
            for name in dict.fromkeys(plan(part, kind, split)[0] for split in SPLITS):
                found[kind, path, name] = read(part, kind, name, **given)
    if not found:
        raise DataError(
            "there is nothing to inspect: give a file with data.path=my.jsonl, or a preset with data=<name>"
        )
    return found


def _of_path(source: Source, given: dict[str, Any]) -> dict[tuple[str, str, str], Table]:
    """What ``data.path`` holds, as the richest kind that its first row can be read as."""
    found: dict[tuple[str, str, str], Table] = {}
    problem: DataError | None = None
    for name in dict.fromkeys(plan(source, "preferences", split)[0] for split in SPLITS):
        _, placed = placed_rows(source, "preferences", name)
        place, first = next(placed, (source.path, {}))
        for kind in kinds_of(first, source.format, given["pairing"]):
            try:
                found[kind, source.path, name] = read(source, kind, name, **given)
                break
            except NoRowsError as error:  # thumbs up and down, say, without a prompt that has both
                problem = problem or error
    if not found:
        raise problem or DataError(
            f"{place}: this row is of no kind that can be read, and the file has to be corrected"
        )
    return found


def all_leaks(data: Data, kinds: list[str], seed: int) -> list[dict[str, Any]]:
    """Every training split against every held-out split, of the same kind and of others."""
    trained, held_out = {}, {}
    for kind in sorted(kinds, key=KINDS.index):
        for split in SPLITS:
            try:
                rows = load(data, kind, split, seed, tell=False)
            except DataError:  # too few prompts to hold any out; a stage that needs them says so
                continue
            (trained if split == "train" else held_out)[f"{kind} ({split})"] = rows
    same = {rows._fingerprint: name for name, rows in reversed(held_out.items())}  # test falls back to validation
    return [
        {"train": train, "held_out": name} | leaks_between(rows, held_out[name], data.cache)._asdict()
        for train, rows in trained.items()
        for name in sorted(same.values())
        if train.startswith("text") == name.startswith("text")
    ]
