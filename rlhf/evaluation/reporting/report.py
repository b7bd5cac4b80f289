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
from rlhf.evaluation.comparison.comparison import Comparison, interval
from rlhf.evaluation.comparison.frontier import Point, fit_law, trajectory
from rlhf.evaluation.reporting import page, story
from rlhf.evaluation.reporting.figures import figures, reference_points
from rlhf.evaluation.reporting.tables import JUDGES, Grid, grids, meanings, number, remarks, titled
from rlhf.evaluation.statistics.metrics import Estimate
from rlhf.runs import tree
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
        "tree": [line._asdict() for line in comparison.tree],
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
    """Print the verdict, the main numbers of each stage and the largest loss of the last one: some ten lines."""
    for sentence in story.verdict(comparison):
        console.print(Text(sentence), style="bold")
    console.print(summary(comparison))
    for line in caption(comparison):
        console.print(Text(line), style="dim")


def summary(comparison: Comparison) -> Table:
    """Return the tree of the stages with their main numbers and intervals, and on how many prompts each lost."""
    reference, keys, ours = titled(comparison.stage.reference), story.main_metrics(comparison), story.judged(comparison)
    titles = {"kl": f"KL to {reference}", "gold": "gold reward", "reward": "reward"}
    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    found.add_column("", overflow="ellipsis", max_width=16)
    for key in keys:
        found.add_column(Text(f"better than {reference}" if key.startswith("win_rate") else titles.get(key, key)))
    found.add_column("worse on" if ours else "")
    lines = tree.among(comparison.tree, comparison.metrics) or [tree.Line(0, name) for name in comparison.metrics]
    for line, before in zip(lines, tree.strokes([line.level for line in lines]), strict=True):
        name = line.name
        cells = [summarized(key, interval(comparison.metrics[name], key)) for key in keys]
        if name in ours:
            lost, other = len(story.losses(comparison, name)), titled(str(comparison.previous[name]))
            cells.append(f"{lost} of {len(comparison.prompts)} (vs {other})")
        found.add_row(*map(Text, (before + titled(name), *cells)))
    return found


def summarized(key: str, value: Estimate | None) -> str:
    """Return a value with its bounds, a share in percent."""
    if value is None:
        return "–"
    mean, low, high = (f"{x:.2f}" if key in ("kl", "gold", "reward") else f"{100 * x:.0f}" for x in value)
    return f"{mean}{'' if '.' in mean else ' %'} ({low}–{high})"


def caption(comparison: Comparison) -> Iterator[str]:
    """Yield the last stage's largest loss, the meaning of the numbers, and the place of the others."""
    for name in story.judged(comparison)[-1:]:
        for loss in story.losses(comparison, name)[:1]:
            text = f"{titled(name)} lost most ({loss.gap:.2f}) on: {' '.join(loss.prompt.split())}"
            yield printable(text, console.width)
    judge, notes, noun = story.main_judge(comparison), len(remarks(comparison)), "remark"
    counts = f"{plural(len(comparison.prompts), 'prompt')}, {plural(comparison.stage.samples, 'sample')} each"
    yield f"95 % intervals over {counts}{f', by {JUDGES.get(judge, judge)}; ties count half' if judge else ''}."
    yield f"Every metric{f' and {plural(notes, noun)}' if notes else ''}: report.html or report.md."


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
    for sentence in story.verdict(comparison):
        yield f"**{cell(sentence)}**\n"
    for note in remarks(comparison):
        yield f"- {cell(note)}"
    yield "\n## One prompt, every stage\n"
    i, chosen = story.typical(comparison)
    answers = comparison.answers
    first = [question(comparison.prompts[i]["prompt"]), *(written(answers[n].texts[i][chosen[n]]) for n in names)]
    asked = [
        [text, *(written(answers[name].greedy[place]) for name in names)] for place, text in enumerate(stage.questions)
    ]
    yield from table(["prompt", *names], [first, *asked])
    for grid in (*grids(comparison), *changed(comparison), *lost(comparison)):
        yield f"\n## {cell(grid.title)}\n"
        yield from table(grid.headings, grid.rows)
    if comparison.tree:
        yield "\n## Runs\n"
        yield from (f"{'    ' * line.level}- {cell(line.whole)}" for line in comparison.tree)
    yield "\n## Responses\n"
    yield from table(["prompt", *names], [
        [question(comparison.prompts[i]["prompt"]), *(written(comparison.answers[name].texts[i][0]) for name in names)]
        for i in examples(comparison)
    ])  # fmt: skip
    yield "\n## What each metric means\n"
    yield from (f"- **{cell(label)}**: {cell(meaning)}" for label, _, meaning in meanings(comparison))


def changed(comparison: Comparison) -> Iterator[Grid]:
    """Yield for each facet of the prompts the win rates over the stage before, by kind."""
    names = story.judged(comparison)
    for facet, heading in story.FACETS.items():
        rows = [
            [kind, *(number(shares[name]) if name in shares else "–" for name in names)]
            for kind, shares in story.changes(comparison, facet).items()
        ]
        if rows:
            yield Grid(f"Win rate vs previous stage by {heading}", ["", *names], rows)


def lost(comparison: Comparison) -> Iterator[Grid]:
    """Yield for each stage its largest losses to the stage before."""
    for name in story.judged(comparison):
        found, parent = story.losses(comparison, name), str(comparison.previous[name])
        rows = [
            [loss.prompt, written(loss.theirs), written(loss.ours), f"{loss.gap:.2f}"] for loss in found[: story.WORST]
        ]
        if rows:
            title = f"Largest losses of {titled(name)}, worse than {titled(parent)} on {len(found)} of {{}} prompts"
            yield Grid(title.format(len(comparison.prompts)), ["prompt", parent, name, "difference"], rows)


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
