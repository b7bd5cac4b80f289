"""The numbers of a benchmark: tables for people, and metrics.json, scores.jsonl and the metrics of run.json."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from rlhf.config import EvaluateRewardStage
from rlhf.console import console, plural
from rlhf.evaluation.benchmarks.definitions import SCORE, Scores, measured
from rlhf.evaluation.benchmarks.items import Item
from rlhf.evaluation.benchmarks.released import TABLE
from rlhf.evaluation.statistics.metrics import Estimate
from rlhf.storage.json_files import write_json
from rlhf.storage.markdown import cell, table

HEADINGS = ["", "value", "95 % interval", "rows"]


class Numbers(NamedTuple):
    """The numbers of a benchmark by name, the most general first; ``rows`` are those of numbers that are means."""

    numbers: dict[str, Estimate]
    rows: dict[str, int]
    draws: int


def measure(stage: EvaluateRewardStage, items: Sequence[Item], scores: Scores, seed: int) -> Numbers:
    """Return the numbers of ``stage.benchmark``."""
    assert stage.benchmark is not None
    found = TABLE[stage.benchmark].define(items, scores)
    rows = {name: len(cells.values) for cells in found.cells for name in cells.names}
    return Numbers(measured(found, stage.bootstrap, seed), rows, stage.bootstrap)


def metrics(found: Numbers) -> dict[str, float]:
    """Return the metrics of run.json; the objective is the benchmark's score, if all its parts were scored."""
    values = {f"benchmark/{name}": value.mean for name, value in found.numbers.items()}
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
    yield from table(HEADINGS, lines(found))


def lines(found: Numbers) -> Iterator[list[str]]:
    """Yield the rows of the table."""
    for name, value in found.numbers.items():
        rows = str(found.rows.get(name, ""))
        yield [name, f"{value.mean:.3f}", f"[{value.low:.3f}, {value.high:.3f}]", rows]


def title(stage: EvaluateRewardStage) -> str:
    """Return the name of the benchmark."""
    assert stage.benchmark is not None
    return stage.benchmark.value


def show(name: str, stage: EvaluateRewardStage, found: Numbers) -> None:
    """Print the table on the terminal."""
    shown = Table(title=f"{title(stage)}: {plural(sum(found.rows.values()), 'row')}", title_justify="left")
    for number, heading in enumerate(HEADINGS):
        shown.add_column(Text(heading), justify="right" if number else "left", overflow="fold")
    for line in lines(found):
        shown.add_row(*map(Text, line))
    console.print(f"evaluate_reward: {name} on {title(stage)}", markup=False, soft_wrap=True)
    console.print(shown)
