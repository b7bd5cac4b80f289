"""Write a data sheet: statistics of the data, its faults, and rows as a model sees them. Nothing is trained.

    python -m rlhf stage=inspect                         # the embedded data
    python -m rlhf stage=inspect data.path=my.jsonl      # a file of any kind and layout

Writes report.md and data.json (numbers only) to checkpoints/<name>/inspect.
"""

from copy import copy
from typing import Any

from rlhf.config import InspectStage, Render, Settings
from rlhf.data.overview import all_leaks, tables
from rlhf.data.reading import Table
from rlhf.data.sheet import examples, obstacle, sheet
from rlhf.data.sheet_report import markdown, show
from rlhf.data.templates import settle
from rlhf.errors import ModelError
from rlhf.modeling import loading
from rlhf.runs.run import Run
from rlhf.storage.json_files import write_json


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Write the data sheet of each table and return the number of rows and leaks."""
    stage, data, seed = settings.stage_as(InspectStage), settings.data, settings.seed
    tokenizer, notes = find_tokenizer(settings, run)
    found = tables(data)
    sheets = []
    for (kind, path, split), table in found.items():
        fits = None if tokenizer is None else put(tokenizer, table, data.render)
        unread = None if fits is None else obstacle(fits, table)
        if unread is not None:
            fits = None
            notes.append(f"{path}: words are counted, since {unread}.")
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


def put(tokenizer: Any, table: Table, render: Render) -> Any:
    """Return a copy of the tokenizer that renders the prompts of a table as a stage would."""
    found = copy(tokenizer)
    if "prompt" in table.rows.column_names:
        settle(found, table.rows["prompt"], render)
    return found


def find_tokenizer(settings: Settings, run: Run) -> tuple[Any | None, list[str]]:
    """Return the tokenizer that counts tokens, or None and a note that gives the reason."""
    if "tokenizer" not in run.parents:
        path = settings.stage_as(InspectStage).tokenizer
        return None, [f"Lengths are in words: stage.tokenizer={path} does not exist."]
    try:
        return loading.load_tokenizer(run["tokenizer"], settings.model), []
    except ModelError as error:
        return None, [f"Lengths are in words: {error}."]
