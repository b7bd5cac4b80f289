"""The numbers of a benchmark: tables for people, and metrics.json, scores.jsonl and the metrics of run.json."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from rlhf.config import EvaluateRewardStage
from rlhf.console import console
from rlhf.evaluation.benchmarks.definitions import SCORE, Scores, measured
from rlhf.evaluation.benchmarks.items import Item
from rlhf.evaluation.benchmarks.released import TABLE, at_commit
from rlhf.evaluation.reward_card import style
from rlhf.evaluation.reward_card.pairs import Part, decided, groups
from rlhf.evaluation.reward_card.style import Compared, StyleControl
from rlhf.evaluation.statistics.intervals import Share, share
from rlhf.evaluation.statistics.metrics import Estimate
from rlhf.storage.json_files import write_json
from rlhf.storage.markdown import cell, table

HEADINGS = ["", "value", "95 % interval", "rows"]


class Numbers(NamedTuple):
    """The numbers of a benchmark by name, the most general first; ``rows`` are those of numbers that are means.

    ``style`` is the accuracy over pairs apart from style. ``by`` and ``styled`` are the accuracy over pairs and that
    apart from style by subset, language and number of turns, if the rows have several.
    """

    numbers: dict[str, Estimate]
    rows: dict[str, int]
    draws: int
    style: StyleControl
    by: dict[str, list[Part]]
    styled: dict[str, dict[str, StyleControl]]


def measure(stage: EvaluateRewardStage, items: Sequence[Item], scores: Scores, seed: int) -> Numbers:
    """Return the numbers of ``stage.benchmark``."""
    assert stage.benchmark is not None
    found = TABLE[stage.benchmark].define(items, scores)
    rows = {name: len(cells.values) for cells in found.cells for name in cells.names}
    named: dict[str, list[Any]] = {
        "subset": [one.subset for one in items],
        "language": [one.language for one in items],
        "turns": [one.turns for one in items],
    }
    named = {title: values for title, values in named.items() if len({*values} - {None}) > 1}
    pairs = compared(items, scores)
    won = np.bincount(pairs.rows, decided(pairs.x[:, 0])) / np.bincount(pairs.rows)
    by = {title: parts(values, won) for title, values in named.items()}
    styled = {
        title: {
            name: style.control(pairs.part(np.flatnonzero(np.isin(pairs.rows, places))), stage.bootstrap, seed)
            for name, places in groups(values).items()
        }
        for title, values in named.items()
    }
    controlled = style.control(pairs, stage.bootstrap, seed)
    return Numbers(measured(found, stage.bootstrap, seed), rows, stage.bootstrap, controlled, by, styled)


def compared(items: Sequence[Item], scores: Scores) -> Compared:
    """Return all pairs of a right and a wrong response; a row weighs as much as any other, however many it has."""
    pairs, of = [], []
    for number, (item, own) in enumerate(zip(items, scores, strict=True)):
        right, wrong = item.pairs()
        styles = np.array([style.counts(text) for text in item.responses])
        pairs.append(style.compared(own[right] - own[wrong], styles[right], styles[wrong]))
        of += [number] * len(right)
    rows = np.array(of)
    return Compared(np.concatenate(pairs), rows, 1 / np.bincount(rows)[rows])


def parts(values: Sequence[Any], won: np.ndarray) -> list[Part]:
    """Return the mean of ``won`` (n,) for each of the `groups` of ``values``."""
    return [Part(name, share(won[places])) for name, places in groups(values).items()]


def metrics(found: Numbers) -> dict[str, float]:
    """Return the metrics of run.json; the objective is the benchmark's score, if all its parts were scored."""
    values = {f"benchmark/{name}": value.mean for name, value in found.numbers.items()}
    values["style/accuracy"] = found.style.accuracy.mean
    values |= {} if found.style.controlled is None else {"style/controlled": found.style.controlled.mean}
    return values | ({"objective": found.numbers[SCORE].mean} if SCORE in found.numbers else {})


def write(
    name: str, stage: EvaluateRewardStage, found: Numbers, items: Sequence[Item], scores: Scores, folder: Path
) -> None:
    """Write metrics.json, report.md and scores.jsonl, one item per line, into ``folder``."""
    record = {
        "reward": name,
        "benchmark": stage.benchmark,
        "path": at_commit(stage.benchmark_path),
        "prior_sets": at_commit(stage.prior_sets),
        "items": len(items),
        "interval": f"95 %: bootstrap over rows, {found.draws} draws",
        "numbers": {key: value._asdict() | {"rows": found.rows.get(key)} for key, value in found.numbers.items()},
        "style": found.style.record(),
        "by": {title: {part.name: part.accuracy._asdict() for part in some} for title, some in found.by.items()},
        "style_by": {title: {name: one.record() for name, one in some.items()} for title, some in found.styled.items()},
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
    places = [str(at_commit(path)) for path in (stage.benchmark_path, stage.prior_sets) if path is not None]
    yield f"From {cell(' and '.join(places))}. Intervals are 95 %: a bootstrap over rows ({found.draws} draws).\n"
    if SCORE not in found.numbers:
        yield "Parts of the benchmark are missing, so it has no score.\n"
    for heading, headings, some in tables(found):
        yield from (["", f"## {cell(heading)}", ""] if heading else [])
        yield from table(headings, some)


def tables(found: Numbers) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield the title, the headings and the rows of each table; the first one has no title."""
    yield "", HEADINGS, [line(name, value, found.rows.get(name)) for name, value in found.numbers.items()]
    yield (
        "Pairs, and apart from style",
        HEADINGS,
        [
            [name, found.style.shown(value), "", ""] if value is None else line(name, value)
            for name, value in found.style.estimates().items()
        ],
    )
    for title, some in found.by.items():
        lines = []
        for part in some:
            one = found.styled[title][part.name]
            lines.append([*line(part.name, part.accuracy, part.accuracy.count), one.shown(one.controlled)])
        yield f"Pairs by {title}", [*HEADINGS, style.EQUAL], lines


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
    for heading, headings, some in tables(found):
        shown = Table(title=Text(heading or title(stage)), title_justify="left")
        for number, column in enumerate(headings):
            shown.add_column(Text(column), justify="right" if number else "left", overflow="fold")
        for values in some:
            shown.add_row(*map(Text, values))
        console.print(shown)
