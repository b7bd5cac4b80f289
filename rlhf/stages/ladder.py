"""Write the page of stage=ladder: methods over seeds with intervals, paired tests and cost.

    python -m rlhf stage=ladder

rlhf/cli/ladder.py runs the methods. Writes ladder.md, ladder.json and figures/ladder.svg.
"""

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from matplotlib.ticker import MaxNLocator

from rlhf.config import LadderStage, Settings
from rlhf.console import console
from rlhf.errors import RunError
from rlhf.evaluation.reporting.drawing import MARKERS, Drawing, canvas, finish, point
from rlhf.evaluation.sweeps.ladder import METRICS, RANKING, Cost, Method, Test, collect, compare, cost, interval, place
from rlhf.evaluation.sweeps.leaderboard import safe
from rlhf.planning.shapes import architecture
from rlhf.runs.run import Run
from rlhf.storage.json_files import write_json
from rlhf.storage.markdown import table


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Write and print the page; return the number of runs, of unfinished runs, and the best mean.

    Raises:
        RunError: no method has finished, or the runs have no metric to compare by.
    """
    stage, directory = settings.stage_as(LadderStage), run.directory.parent
    methods = [one for one in collect(directory, list(stage.methods), stage.seeds) if one.runs]
    expected = len(stage.methods) * len(stage.seeds)
    metric = next((name for name in RANKING if methods and all(one.values(name) for one in methods)), None)
    if metric is None:
        raise RunError(f"{directory} has no runs with a common metric: set eval_set.prompts above 0, and data.gold")
    ranked = sorted(methods, key=lambda one: -fmean(one.values(metric).values()))
    tests = {} if stage.compared not in [one.title for one in methods] else compare(methods, stage.compared, metric)
    parameters = architecture(settings, {}).size.parameters
    lines = [*table(*rows(ranked, tests, stage.compared, parameters), escape=safe)]
    drawing = draw(ranked, metric, parameters)
    (run.work / "figures").mkdir(exist_ok=True)
    (run.work / "figures" / "ladder.svg").write_text(drawing.standalone(), encoding="utf-8")
    missing = [
        str(place(directory, seed, title))
        for title in stage.methods
        for seed in stage.seeds
        if not any(one.title == title and seed in one.runs for one in methods)
    ]
    text = page(ranked, lines, drawing, missing, stage, metric)
    (run.work / "ladder.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    best = max(ranked[0].values(metric), key=ranked[0].values(metric).__getitem__)
    content = as_json(ranked, tests, parameters, stage.compared)
    write_json(run.work / "ladder.json", content | {"best": str(place(directory, best, ranked[0].title))})
    run.record_output(run.work / "ladder.json")
    for line in summary(ranked, tests, metric):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    done = sum(len(one.runs) for one in methods)
    return {"jobs": float(done), "unfinished": float(expected - done), "objective": interval(
        list(ranked[0].values(metric).values())).mean}  # fmt: skip


def mean_cost(method: Method) -> Cost:
    """Return the mean over the runs of a method."""
    return Cost(*map(fmean, zip(*map(cost, method.runs.values()), strict=True)))


def rows(
    ranked: Sequence[Method], tests: dict[str, Test], baseline: str, parameters: int
) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of the table."""
    shown = [name for name in METRICS if all(one.values(name) for one in ranked)]
    if "gold" in shown:
        shown = [name for name in shown if name != "score"]  # reward models of different seeds have different zeros
    headings = ["method", "runs", *(METRICS[name] for name in shown), f"difference from {baseline}", "p (Holm)",
                "tokens sampled", "tokens trained", "FLOPs", "minutes"]  # fmt: skip
    lines = []
    for one in ranked:
        test, spent = tests.get(one.title), mean_cost(one)
        lines.append([
            one.title, str(len(one.runs)), *(str(interval(list(one.values(name).values()))) for name in shown),
            "–" if test is None else str(test.difference),
            "–" if test is None or test.corrected is None else f"{test.corrected:.2g}",
            f"{spent.sampled:,.0f}", f"{spent.trained:,.0f}", f"{spent.flops(parameters):.2g}",
            f"{fmean(manifest['seconds'] for manifest in one.runs.values()) / 60:.1f}",
        ])  # fmt: skip
    return headings, lines


def draw(ranked: Sequence[Method], metric: str, parameters: int) -> Drawing:
    """Draw the metric over KL, tokens and FLOPs: a small point per run, a large one per method."""
    panels = {
        "KL to the start (nats per response)": lambda one: one["metrics"]["kl"],
        "tokens, sampled and trained": lambda one: cost(one).sampled + cost(one).trained,
        "FLOPs": lambda one: cost(one).flops(parameters),
    }
    with canvas(4.0 * len(panels), 4.2) as figure:
        for axes, (label, value) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
            for index, one in enumerate(ranked):
                look = point(index + 1) | ({"fillstyle": "none"} if index >= len(MARKERS) else {})
                xs = [value(manifest) for manifest in one.runs.values()]
                ys = [manifest["metrics"][metric] for manifest in one.runs.values()]
                axes.plot(xs, ys, markersize=3, alpha=0.5, **look)
                half = interval(ys).half or 0.0
                axes.errorbar([fmean(xs)], [fmean(ys)], yerr=[half], capsize=3, label=one.title, markersize=8, **look)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_xlabel(label)
        figure.axes[0].set_ylabel(METRICS[metric])
        handles = dict(zip(*figure.axes[0].get_legend_handles_labels()[::-1], strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6)
        caption = "Small points: runs. Large points with bars: mean over seeds and its 95 % interval."
        return finish(figure, "ladder", f"{METRICS[metric]} by KL, tokens and FLOPs", caption)


def page(
    ranked: Sequence[Method], lines: Sequence[str], drawing: Drawing, missing: Sequence[str], stage: LadderStage,
    metric: str,
) -> list[str]:  # fmt: skip
    """Return the lines of ladder.md."""
    budget = "its own number of steps" if stage.budget is None else f"{stage.budget:,} tokens, sampled and trained"
    text = [
        "# Ladder\n",
        f"Each method trains for {budget}, from the parents of the same seed. Ranked by {METRICS[metric]}. ± is half "
        f"of a 95 % interval over seeds (Student's t). The difference from {stage.compared} is paired by seed; its "
        "p-value is of a t-test, corrected for the number of methods (Holm). FLOPs: 2 N per token forward, 6 N per "
        "trained token.\n",
        *lines,
        *started(ranked, metric),
        f"\n![{drawing.title}](figures/ladder.svg)\n",
        drawing.caption,
        "\n## Commands\n",
        "```bash",
        *(next(iter(one.runs.values()))["command"] for one in ranked),
        "```",
    ]
    return text if not missing else [*text, "\n## Not finished\n", *(f"- {safe(one)}" for one in missing)]


def started(ranked: Sequence[Method], metric: str) -> Iterator[str]:
    """Yield a sentence on the start of all methods, if it was measured."""
    found = [one.values(f"start/{metric}") for one in ranked]
    if found and all(found):
        yield f"\nThe start has {METRICS[metric]} {interval(list(max(found, key=len).values()))}."


def summary(ranked: Sequence[Method], tests: dict[str, Test], metric: str) -> Iterator[str]:
    """Yield a line per method for the terminal."""
    width = max(len(one.title) for one in ranked)
    for one in ranked:
        test = tests.get(one.title)
        p = "" if test is None or test.corrected is None else f"  p {test.corrected:.2g}"
        yield f"{one.title:<{width}}  {METRICS[metric]} {interval(list(one.values(metric).values()))}{p}"


def as_json(ranked: Sequence[Method], tests: dict[str, Test], parameters: int, baseline: str) -> dict[str, Any]:
    """Return the content of ladder.json."""
    return {
        "baseline": baseline,
        "parameters": parameters,
        "methods": [
            {
                "method": one.title,
                "command": next(iter(one.runs.values()))["command"],
                "metrics": {name: one.values(name) for name in METRICS if one.values(name)},
                "cost": {seed: cost(manifest)._asdict() for seed, manifest in one.runs.items()},
                "seconds": {seed: manifest["seconds"] for seed, manifest in one.runs.items()},
                "weights": {seed: manifest["weights"] for seed, manifest in one.runs.items()},
                "test": tests[one.title]._asdict() if one.title in tests else None,
            }
            for one in ranked
        ],
    }
