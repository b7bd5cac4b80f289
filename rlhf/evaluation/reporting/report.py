"""A comparison for people (terminal, report.html, report.md) and for programs (metrics.json, responses.jsonl).

Model output is data: markup in it is not interpreted on the terminal, and is escaped in Markdown and on the page.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table
from rich.text import Text

from rlhf.console import console, plural, printable
from rlhf.data.render import question
from rlhf.evaluation.comparison.comparison import Comparison
from rlhf.evaluation.comparison.frontier import Point, fit_law, trajectory
from rlhf.evaluation.reporting import page
from rlhf.evaluation.reporting.figures import figures, reference_points
from rlhf.evaluation.reporting.tables import grids, meanings, remarks, rows
from rlhf.evaluation.statistics.metrics import Estimate
from rlhf.storage.json_files import write_json
from rlhf.storage.markdown import cell, table

EXAMPLES = 8


def write(comparison: Comparison, folder: Path) -> None:
    """Write report.html, report.md, metrics.json, responses.jsonl and figures/*.svg into ``folder``."""
    drawings = figures(comparison)
    write_json(folder / "metrics.json", as_json(comparison))
    (folder / "report.md").write_text("\n".join(markdown(comparison)) + "\n", encoding="utf-8")
    with (folder / "responses.jsonl").open("w", encoding="utf-8") as file:
        for line in responses(comparison):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    (folder / "figures").mkdir(exist_ok=True)
    for drawing in drawings:
        (folder / "figures" / f"{drawing.name}.svg").write_text(drawing.standalone(), encoding="utf-8")
    (folder / "report.html").write_text(page.render(comparison, drawings), encoding="utf-8")


def as_json(comparison: Comparison) -> dict:
    """Return the content of metrics.json."""

    def plain(value: float | Estimate) -> float | dict[str, float]:
        return value._asdict() if isinstance(value, Estimate) else value

    models = {name: {key: plain(value) for key, value in row.items()} for name, row in comparison.metrics.items()}
    reliable = comparison.reliability
    return {
        "reference": comparison.stage.reference,
        "prompts": len(comparison.prompts),
        "samples": comparison.stage.samples,
        "temperature": comparison.stage.temperature,
        "seed": comparison.seed,
        "interval": f"95 %, percentile bootstrap over prompts, {comparison.stage.bootstrap} draws",
        "notes": comparison.notes,
        "models": models,
        "previous": comparison.previous,
        "costs": {name: _cost(asdict(run)) for name, run in comparison.records.items()},
        "reward_model": None
        if reliable is None
        else {
            "calibration_error": reliable.error,
            "calibration_error_floor": reliable.floor,
            "bins": [part._asdict() for part in reliable.bins],
        },
        "over_optimization": {path: _laws(trajectory(run.lines)) for path, run in comparison.paths.items()},
        "best_of_n": _best_of_n(comparison),
        "over_seeds": None if comparison.seeds is None else comparison.seeds._asdict(),
        "questions": {
            text: {name: answers.greedy[i] for name, answers in comparison.answers.items()}
            for i, text in enumerate(comparison.stage.questions)
        },
    }


def _cost(run: dict) -> dict:
    return {key: run[key] for key in ("path", "stage", "seconds", "tokens", "peak_memory_gib")}


def _laws(points: Sequence[Point], *, best_of_n: bool = False) -> dict[str, dict[str, float | None]]:
    """Return reward -> the law of over-optimization fitted to a PPO run, or to best-of-n."""
    found = {}
    for name in ("reward", "gold"):
        known = [point for point in points if name in point.values]
        kls, values = [point.kl for point in known], [point.values[name] for point in known]
        if known and (law := fit_law(kls, values, values[0], best_of_n=best_of_n)) is not None:
            found[name] = law._asdict() | {"peak_kl": law.peak}
    return found


def _best_of_n(comparison: Comparison) -> dict | None:
    """Return best-of-n of the reference's samples: bound of the KL and mean scores for each n, and the fitted law."""
    points = reference_points(comparison)
    if len(points) < 2:
        return None
    rows = [{"n": n, "kl_at_most": point.kl, **point.values} for n, point in enumerate(points, 1)]
    return {"points": rows, "laws": _laws(points, best_of_n=True)}


def responses(comparison: Comparison) -> Iterator[dict]:
    """Yield each response with its prompt, model, sample number and scores."""
    for i, row in enumerate(comparison.prompts):
        for name, answers in comparison.answers.items():
            for j, text in enumerate(answers.texts[i]):
                line = {"prompt": row["prompt"], "model": name, "sample": j, "completion": text}
                line |= {"length": answers.lengths[i][j], "ended": answers.ended[i][j]}
                line |= {} if answers.kl is None else {"kl": answers.kl[i][j]}
                yield line | {reward: values[i][j] for reward, values in answers.scores.items()}


def show(comparison: Comparison) -> None:
    """Print the questions side by side, the main table and the remarks on the terminal."""
    columns = list(comparison.metrics)
    questions = Table(title="One question, every stage", title_justify="left", show_lines=True)
    for heading in ("question", *columns):
        questions.add_column(Text(heading), overflow="fold")
    for i, text in enumerate(comparison.stage.questions):
        cells = [printable(written(comparison.answers[name].greedy[i])) for name in columns]
        questions.add_row(*map(Text, (text, *cells)))
    console.print(questions)
    metrics = Table(title=plural(len(comparison.prompts), "held-out prompt"), title_justify="left")
    for heading in ("", *columns):
        metrics.add_column(Text(heading), justify="left" if not heading else "right")
    for heading, cells in rows(comparison):
        metrics.add_row(Text(heading), *map(Text, cells))
    console.print(metrics)
    for note in remarks(comparison):
        console.print(Text(note), style="dim")


def markdown(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of the report as Markdown."""
    names = list(comparison.metrics)
    stage = comparison.stage
    yield "# What each stage changed\n"
    yield (
        f"{plural(len(comparison.prompts), 'held-out prompt')}, {plural(stage.samples, 'sample')} each at temperature "
        f"{stage.temperature:g}, seed {comparison.seed}; ± is half of a 95 % interval, bootstrapped over "
        "prompts, and [low, high] the interval if it is skewed.\n"
    )
    for note in remarks(comparison):
        yield f"- {cell(note)}"
    yield "\n## One question, every stage\n"
    yield from table(["question", *names], [
        [text, *(written(comparison.answers[name].greedy[i]) for name in names)]
        for i, text in enumerate(stage.questions)
    ])  # fmt: skip
    for grid in grids(comparison):
        yield f"\n## {cell(grid.title)}\n"
        yield from table(grid.headings, grid.rows)
    yield "\n## Responses\n"
    yield from table(["prompt", *names], [
        [question(comparison.prompts[i]["prompt"]), *(written(comparison.answers[name].texts[i][0]) for name in names)]
        for i in examples(comparison)
    ])  # fmt: skip
    yield "\n## What each metric means\n"
    yield from (f"- **{cell(label)}**: {cell(meaning)}" for label, meaning in meanings(comparison))


def written(response: str) -> str:
    """Return a response without surrounding blanks; "(empty)" for one without words."""
    return response.strip() or "(empty)"


def examples(comparison: Comparison) -> list[int]:
    """Return the indices of up to `EXAMPLES` prompts, taken from the tasks in turn."""
    turns: dict[str, int] = {}
    order = []
    for i, row in enumerate(comparison.prompts):
        task = str(row.get("task"))
        order.append((turns.setdefault(task, 0), i))
        turns[task] += 1
    return [i for _, i in sorted(order)[:EXAMPLES]]
