"""Write the page of stage=overoptimize: the law of over-optimization of each reward model, a kl_target, and its check.

    python -m rlhf stage=overoptimize

rlhf/cli/overoptimize.py runs the chains. Writes overoptimize.md, overoptimize.json and figures/overoptimize.svg.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from rlhf.config import OveroptimizeStage, Settings
from rlhf.console import console
from rlhf.errors import RunError
from rlhf.evaluation.comparison.frontier import Point, trajectory
from rlhf.evaluation.comparison.records import read_lines
from rlhf.evaluation.reporting.drawing import Drawing, canvas, finish, point, style
from rlhf.evaluation.responses.best_of_n import best_of_n_kl
from rlhf.evaluation.sweeps.ladder import Interval, collect, interval, place
from rlhf.evaluation.sweeps.leaderboard import safe
from rlhf.evaluation.sweeps.overoptimization import (
    BEST_OF_N,
    CHECK,
    PROPOSAL,
    TRAINED,
    Fit,
    averaged,
    fit,
    models,
    of_best_of_n,
    proposed,
)
from rlhf.labeling.pairs import RESPONSES, read_responses
from rlhf.runs.run import Run
from rlhf.storage.json_files import write_json
from rlhf.storage.markdown import table

METHODS = {TRAINED: "RL", BEST_OF_N: "best of n"}
LAST = 3  # the check is measured on this part of its updates, one third


class Curve(NamedTuple):
    """Gold reward over KL of one method against one reward model: points of all seeds, and the law over the seeds."""

    model: str
    method: str
    points: list[Point]
    law: Fit | None


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Write and print the page; return the number of fitted curves, the proposed KL and the result of the check.

    Raises:
        RunError: no run has a gold reward over KL that a law can be fitted to.
    """
    stage, directory = settings.stage_as(OveroptimizeStage), run.directory.parent
    curves = [curve(stage, directory, model, method) for model in models(stage) for method in METHODS]
    if not any(one.law for one in curves):
        raise RunError(f"{directory} has no run with a gold reward over KL: see why they failed, or train more updates")
    accuracies = {model: accuracy(stage, directory, model) for model in models(stage)}
    found = proposal(curves, proposed(stage))
    checked = None if found["kl_target"] is None else check(stage, directory, found, curves)
    drawing = draw(curves, checked)
    (run.work / "figures").mkdir(exist_ok=True)
    (run.work / "figures" / "overoptimize.svg").write_text(drawing.standalone(), encoding="utf-8")
    told = [*sentences(found, checked)]
    (run.work / "overoptimize.md").write_text("\n".join(page(curves, accuracies, told, drawing)) + "\n", "utf-8")
    laws = [as_json(one) | {"test_accuracy": accuracies[one.model]} for one in curves]
    write_json(run.work / "overoptimize.json", {"laws": laws, PROPOSAL: found, CHECK: checked})
    run.record_output(run.work / "overoptimize.json")
    for sentence in told:
        console.print(f"overoptimize: {sentence}", markup=False, highlight=False, soft_wrap=True)
    metrics = {"laws": float(sum(one.law is not None for one in curves))}
    metrics |= {} if found["kl_target"] is None else {"kl_target": found["kl_target"]}
    return metrics | {f"check/{name}": checked[name].mean for name in ("gold", "predicted") if checked is not None}


def runs(stage: OveroptimizeStage, directory: Path, title: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield directory and run.json of the finished runs of a title, by seed."""
    for seed, manifest in collect(directory, [title], stage.seeds)[0].runs.items():
        yield place(directory, seed, title), manifest


def curve(stage: OveroptimizeStage, directory: Path, model: str, method: str) -> Curve:
    """Return the points of a method against a reward model; several seeds give the mean of their laws."""
    found, points = list[Fit](), list[Point]()
    for where, _ in runs(stage, directory, f"{method}-{model}"):
        if method == TRAINED:
            own = [at for at in trajectory(read_lines(where / "metrics.jsonl")) if "gold" in at.values]
            law = fit([at.kl for at in own], [at.values["gold"] for at in own]) if own else None
        else:
            rows = read_responses(where / RESPONSES, scored=True)
            drawn = of_best_of_n([row["scores"] for row in rows], [row["gold"] for row in rows])
            law, golds = drawn or (None, [])
            own = [Point(best_of_n_kl(n), {"gold": gold}) for n, gold in enumerate(golds, 1)]
        points += own
        found += [] if law is None else [law]
    if len(found) > 1:
        farthest = min(law.law.farthest for law in found)
        return Curve(model, method, points, averaged(
            [law.coefficients for law in found], farthest, by_best_of_n=method == BEST_OF_N))  # fmt: skip
    return Curve(model, method, points, found[0] if found else None)


def accuracy(stage: OveroptimizeStage, directory: Path, model: str) -> float | None:
    """Return the mean accuracy of a reward model on the test pairs."""
    found = [manifest["metrics"]["test/accuracy"] for _, manifest in runs(stage, directory, f"reward-{model}")]
    return fmean(found) if found else None


def proposal(curves: Sequence[Curve], model: str) -> dict[str, Any]:
    """Return the KL at which the law predicts the highest gold reward under RL against ``model``, None without one."""
    [law] = [one.law for one in curves if (one.model, one.method) == (model, TRAINED)]
    peak = None if law is None else law.law.peak
    if law is None or peak is None:
        return {"model": model, "kl_target": None}
    return {"model": model, "kl_target": peak, "interval": law.peak(), "gold": Interval(*law.predicted(peak))}


def check(
    stage: OveroptimizeStage, directory: Path, found: dict[str, Any], curves: Sequence[Curve]
) -> dict[str, Any] | None:
    """Return the KL and the gold reward of the check's last updates beside those predicted, None if it has not run."""
    [law] = [one.law for one in curves if (one.model, one.method) == (found["model"], TRAINED)]
    points, held = list[Point](), dict[str, list[float]]()
    for title in (CHECK, f"{TRAINED}-{found['model']}"):
        for where, manifest in runs(stage, directory, title):
            if title == CHECK:
                own = trajectory(read_lines(where / "metrics.jsonl"))
                points += own[-max(len(own) // LAST, 1) :]
            for name in ("gold", "kl"):
                held.setdefault(f"{title}/{name}", []).append(manifest["metrics"].get(name))
    if not points or law is None:
        return None
    kl = fmean(at.kl for at in points)
    held_out = {name: fmean(values) for name, values in held.items() if None not in values}
    gold, predicted = interval([at.values["gold"] for at in points]), Interval(*law.predicted(kl))
    return {"kl": kl, "gold": gold, "predicted": predicted, "held_out": held_out}


def sentences(found: dict[str, Any], checked: dict[str, Any] | None) -> Iterator[str]:
    """Yield what the page concludes."""
    if found["kl_target"] is None:
        yield f"against {found['model']} the law has no peak within the KL that was reached: raise stage.updates"
        return
    bounds = "unbounded" if found["interval"] is None else "{:.2f} to {:.2f}".format(*found["interval"])
    yield (
        f"against {found['model']} the gold reward is predicted to peak at {found['gold']}, at a KL of "
        f"{found['kl_target']:.2f} nats per response (95 % interval {bounds}): stage.kl_target={found['kl_target']:.3g}"
    )
    if checked is not None:
        yield (
            f"a run with this target has gold {checked['gold']} at a KL of {checked['kl']:.2f} in the last third of "
            f"its updates; the law predicts {checked['predicted']} there"
        )
        held = checked["held_out"]
        both = [held.get(f"{title}/gold") for title in (CHECK, f"{TRAINED}-{found['model']}")]
        if None not in both:
            yield "on held-out prompts it has gold {:.3f}, and the run without a penalty {:.3f}".format(*both)


def page(
    curves: Sequence[Curve], accuracies: dict[str, float | None], told: Sequence[str], drawing: Drawing
) -> list[str]:
    """Return the lines of overoptimize.md."""
    headings = ["reward model", "test accuracy", "method", "start", "α", "β", "KL at the peak", "gold at the peak"]
    lines = []
    for one in curves:
        known, law = accuracies[one.model], one.law
        row = [one.model, "–" if known is None else f"{known:.3f}", METHODS[one.method]]
        if law is None:
            lines.append([*row, *["–"] * 5])
            continue
        peak = law.law.peak
        values = [str(Interval(*both)) for both in zip(law.coefficients, law.halves(), strict=True)]
        bounds = "unbounded" if (both := law.peak()) is None else "{:.2f} to {:.2f}".format(*both)
        last = ["beyond the data", "–"] if peak is None else [f"{peak:.2f} ({bounds})", f"{law.law(peak):.3f}"]
        lines.append([*row, *values, *last])
    return [
        "# Over-optimization\n",
        "Gold reward over the KL to the start, d = √KL: start + d (α - β log d) for RL, start + d (α - β d) for best "
        "of n (Gao et al. 2022, https://arxiv.org/abs/2210.10760). ± and the range in brackets are 95 % intervals.\n",
        *table(headings, lines, escape=safe),
        "",
        *(f"- {sentence[0].upper()}{sentence[1:]}." for sentence in told),
        f"\n![{drawing.title}](figures/overoptimize.svg)\n",
        drawing.caption,
    ]


def draw(curves: Sequence[Curve], checked: dict[str, Any] | None) -> Drawing:
    """Draw the gold reward over KL with the laws: a panel per method, a color per reward model."""
    order = list(dict.fromkeys(one.model for one in curves))
    with canvas(10.4, 4.4) as figure:
        panels = dict(zip(METHODS, figure.subplots(1, len(METHODS), sharey=True), strict=True))
        for one in curves:
            index, axes = order.index(one.model) + 1, panels[one.method]
            kls = [max(at.kl, 0.0) for at in one.points]
            axes.plot(kls, [at.values["gold"] for at in one.points], markersize=3, alpha=0.35, **point(index))
            if one.law is not None:
                xs = np.linspace(0, np.sqrt(max(kls)), 200) ** 2
                axes.plot(xs, [one.law.law(x) for x in xs], label=one.model, **style(index))
        if checked is not None:
            gold = checked["gold"]
            panels[TRAINED].errorbar(
                [checked["kl"]], [gold.mean], yerr=[gold.half or 0], capsize=3, label="check", markersize=9, **point(0)
            )
        for method, axes in panels.items():
            axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
            axes.set(xlim=(0, None), xlabel=f"KL, {METHODS[method]} (nats per response)")
            axes.set_xticks(np.round(np.linspace(0, np.sqrt(axes.get_xlim()[1]), 6) ** 2, 1))  # evenly spaced
        panels[TRAINED].set_ylabel("gold reward")
        handles = dict(zip(*panels[TRAINED].get_legend_handles_labels()[::-1], strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
        caption = (
            "Points: updates of RL without a KL penalty, on training prompts, and best of n at the upper bound of its "
            "KL, on held-out prompts. Lines: the fitted laws. The horizontal axes are square roots."
        )
        return finish(figure, "overoptimize", "Gold reward by KL, size and number of pairs", caption)


def as_json(one: Curve) -> dict[str, Any]:
    """Return a curve as the page's JSON."""
    points, law = [[at.kl, at.values["gold"]] for at in one.points], None
    if one.law is not None:
        names = zip(("start", "alpha", "beta"), one.law.coefficients, one.law.halves(), strict=True)
        peak = {"peak_kl": one.law.law.peak, "peak_kl_interval": one.law.peak()}
        law = {name: Interval(*both)._asdict() for name, *both in names} | peak
    return {"model": one.model, "method": METHODS[one.method], "law": law, "points": points}
