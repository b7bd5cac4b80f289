"""The numbers of a benchmark: tables for people, and metrics.json, scores.jsonl and the metrics of run.json."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from rlhf.config import EvaluateRewardStage
from rlhf.console import console
from rlhf.evaluation.benchmarks import style
from rlhf.evaluation.benchmarks.definitions import SCORE, Scores, measured
from rlhf.evaluation.benchmarks.items import Item
from rlhf.evaluation.benchmarks.released import TABLE
from rlhf.evaluation.benchmarks.style import StyleControl
from rlhf.evaluation.reward_card.pairs import SOURCES, Part
from rlhf.evaluation.statistics.intervals import Share, share
from rlhf.evaluation.statistics.metrics import Estimate
from rlhf.storage.json_files import write_json
from rlhf.storage.markdown import cell, table

HEADINGS = ["", "value", "95 % interval", "rows"]


class Numbers(NamedTuple):
    """The numbers of a benchmark by name, the most general first; ``rows`` are those of numbers that are means.

    ``style`` is the accuracy over pairs apart from style, ``by`` that by language and by number of turns, if the rows
    have several.
    """

    numbers: dict[str, Estimate]
    rows: dict[str, int]
    draws: int
    style: StyleControl
    by: dict[str, list[Part]]


def measure(stage: EvaluateRewardStage, items: Sequence[Item], scores: Scores, seed: int) -> Numbers:
    """Return the numbers of ``stage.benchmark``."""
    assert stage.benchmark is not None
    found = TABLE[stage.benchmark].define(items, scores)
    rows = {name: len(cells.values) for cells in found.cells for name in cells.names}
    named: dict[str, list[Any]] = {"language": [one.language for one in items], "turns": [one.turns for one in items]}
    won = style.wins(items, scores)
    by = {title: parts(values, won) for title, values in named.items() if len({*values} - {None}) > 1}
    controlled = style.control(items, scores, stage.bootstrap, seed)
    return Numbers(measured(found, stage.bootstrap, seed), rows, stage.bootstrap, controlled, by)


def parts(values: Sequence[Any], won: np.ndarray) -> list[Part]:
    """Return the mean of ``won`` (n,) for each value but None, the most frequent first; after 20, the others as one."""
    most = [value for value, _ in Counter(value for value in values if value is not None).most_common(SOURCES)]
    names = [None if value is None else str(value) if value in most else "others" for value in values]
    ordered = [*map(str, most), *(["others"] if "others" in names else [])]
    return [Part(name, share(won[[one == name for one in names]])) for name in ordered]


def metrics(found: Numbers) -> dict[str, float]:
    """Return the metrics of run.json; the objective is the benchmark's score, if all its parts were scored."""
    values = {f"benchmark/{name}": value.mean for name, value in found.numbers.items()}
    values |= {"style/accuracy": found.style.accuracy.mean, "style/controlled": found.style.controlled.mean}
    return values | ({"objective": found.numbers[SCORE].mean} if SCORE in found.numbers else {})


def write(
    name: str, stage: EvaluateRewardStage, found: Numbers, items: Sequence[Item], scores: Scores, folder: Path
) -> None:
    """Write metrics.json, report.md and scores.jsonl, one item per line, into ``folder``."""
    record = {
        "reward": name,
        "benchmark": stage.benchmark,
        "path": stage.benchmark_path,
        "prior_sets": stage.prior_sets,
        "items": len(items),
        "interval": f"95 %: bootstrap over rows, {found.draws} draws",
        "numbers": {key: value._asdict() | {"rows": found.rows.get(key)} for key, value in found.numbers.items()},
        "style": {key: value._asdict() for key, value in styles(found).items()},
        "by": {title: {part.name: part.accuracy._asdict() for part in some} for title, some in found.by.items()},
    }
    write_json(folder / "metrics.json", record)
    (folder / "report.md").write_text("\n".join(markdown(name, stage, found)) + "\n", encoding="utf-8")
    lines = (
        {"id": item.id, "subset": item.subset, "right": item.right, "scores": own.tolist()}
        for item, own in zip(items, scores, strict=True)
    )
    (folder / "scores.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def markdown(name: str, stage: EvaluateRewardStage, found: Numbers) -> Iterator[str]:
    """Yield the lines of the report; names are escaped."""
    yield f"# {title(stage)}: {cell(name)}\n"
    yield f"From {cell(str(stage.benchmark_path))}. Intervals are 95 %: a bootstrap over rows ({found.draws} draws).\n"
    if SCORE not in found.numbers:
        yield "Parts of the benchmark are missing, so it has no score.\n"
    for heading, some in tables(found):
        yield from (["", f"## {cell(heading)}", ""] if heading else [])
        yield from table(HEADINGS, some)


def tables(found: Numbers) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield the title and the rows of each table; the first one has no title."""
    yield "", [line(name, value, found.rows.get(name)) for name, value in found.numbers.items()]
    yield "Pairs, and apart from style", [line(name, value) for name, value in styles(found).items()]
    for title, some in found.by.items():
        yield f"Pairs by {title}", [line(part.name, part.accuracy, part.accuracy.count) for part in some]


def styles(found: Numbers) -> dict[str, Estimate]:
    """Return the style control by name."""
    accuracy, controlled, coefficients = found.style
    named = {f"coefficient of {name}": value for name, value in coefficients.items()}
    return {"accuracy over pairs": accuracy, "accuracy at equal style": controlled} | named


def line(name: str, value: Estimate | Share, rows: int | None = None) -> list[str]:
    """Return a row of a table."""
    return [name, f"{value.mean:.3f}", f"[{value.low:.3f}, {value.high:.3f}]", "" if rows is None else str(rows)]


def title(stage: EvaluateRewardStage) -> str:
    """Return the name of the benchmark."""
    assert stage.benchmark is not None
    return stage.benchmark.value


def show(name: str, stage: EvaluateRewardStage, found: Numbers) -> None:
    """Print the tables on the terminal."""
    console.print(f"evaluate_reward: {name} on {title(stage)}", markup=False, soft_wrap=True)
    for heading, some in tables(found):
        shown = Table(title=Text(heading or title(stage)), title_justify="left")
        for number, column in enumerate(HEADINGS):
            shown.add_column(Text(column), justify="right" if number else "left", overflow="fold")
        for values in some:
            shown.add_row(*map(Text, values))
        console.print(shown)
