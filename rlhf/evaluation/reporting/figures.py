"""The figures of a comparison. Each is left out where what it shows was not measured."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from rlhf.evaluation.comparison.comparison import Comparison
from rlhf.evaluation.comparison.frontier import Law, Point, best_of_n_points, fit_law, trajectory
from rlhf.evaluation.comparison.records import Record
from rlhf.evaluation.reporting.drawing import INK, Drawing, canvas, finish, point, style
from rlhf.evaluation.reporting.tables import titled
from rlhf.evaluation.statistics.metrics import Estimate

REWARDS = {"gold": "gold reward", "reward": "reward model"}
# Of each stage's log the curves that say most, in the order in which they are drawn; up to `PANELS` of them.
CURVES = {
    "train/loss": "loss in training", "eval/loss": "loss held out", "train/accuracy": "accuracy in training",
    "eval/accuracy": "accuracy held out", "train/rewards/accuracies": "implicit accuracy",
    "train/rewards/margins": "implicit margin", "objective/scores": "reward model", "objective/gold": "gold reward",
    "objective/kl": "KL (nats per response)", "objective/entropy": "entropy",
    "val/response_length": "response length (tokens)",
    "train/mean_token_accuracy": "token accuracy in training",
}  # fmt: skip
PANELS = 4
FITTED = 3  # PPO runs of which the law is drawn


def figures(comparison: Comparison) -> list[Drawing]:
    drawn = [frontier(comparison), *laws(comparison), lengths(comparison), scores(comparison), reliable(comparison)]
    return [one for one in (*drawn, *training(comparison)) if one is not None]


def frontier(comparison: Comparison) -> Drawing | None:
    """Reward over KL from the reference: the columns, best-of-n of the reference's samples, PPO's own path."""
    names, best = rewards_of(comparison), reference_points(comparison)
    columns = [name for name, row in comparison.metrics.items() if "kl" in row]
    if not names or not (columns or len(best) > 1):
        return None
    with canvas(5.2 * len(names), 4.0) as figure:
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            _best(axes, best, name)
            for index, (path, run) in enumerate(comparison.paths.items()):
                _path(axes, run, name, path, index)
            for index, column in enumerate(comparison.metrics):
                _column(axes, comparison, column, name, index)
            axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.set(xlabel=f"KL to {titled(comparison.stage.reference)} (nats per response)", ylabel=REWARDS[name])
        handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
        return finish(figure, "frontier", "Reward vs. KL", _frontier_caption(comparison, names, best))


def _frontier_caption(comparison: Comparison, names: Sequence[str], best: Sequence[Point]) -> str:
    parts = [f"Points: the models at temperature {comparison.stage.temperature:g}, with 95 % intervals."]
    if len(best) > 1:
        parts.append(
            f"Triangles: best of n = 1 to {len(best)} of the {comparison.stage.reference} samples by the "
            f"{REWARDS[_proxy(names)]}, drawn at the upper bound of its KL, log n - (n-1)/n; the true KL lies to the "
            "left, by more the more often scores are equal."
        )
    if comparison.paths:
        parts.append(
            "Dotted: PPO's log during training, on its training prompts and at its own temperature; its level is not "
            "comparable with the held-out points."
        )
    return " ".join([*parts, "The horizontal axis is a square root. Models whose KL is unknown are left out."])


def rewards_of(comparison: Comparison) -> list[str]:
    return [name for name in REWARDS if name in comparison.metrics[comparison.stage.reference]]


def reference_points(comparison: Comparison) -> list[Point]:
    """Return best-of-n of the reference's samples, picked by the reward model if there is one."""
    names = rewards_of(comparison)
    return best_of_n_points(comparison.answers[comparison.stage.reference].scores, _proxy(names)) if names else []


def _proxy(names: Sequence[str]) -> str:
    """What best-of-n picks by: the learned reward where there is one."""
    return "reward" if "reward" in names else names[0]


def _best(axes: Any, best: Sequence, name: str) -> None:
    kls, values = [one.kl for one in best], [one.values[name] for one in best]
    axes.plot(
        kls, values, color=INK, marker="<", markerfacecolor="none", markersize=5, linestyle="--", linewidth=0.8,
        label="best of n, KL at most",
    )  # fmt: skip
    for n in (2, 4, 8, 16, 32, 64):
        if n <= len(best):
            axes.annotate(f"n={n}", (kls[n - 1], values[n - 1]), (3, -11), textcoords="offset points", fontsize=8)


def _path(axes: Any, run: Record, name: str, path: str, index: int) -> None:
    points = [one for one in trajectory(run.lines) if name in one.values]
    if points:
        label = f"{'/'.join(path.split('/')[-3:])}, training prompts"
        kls, values = [max(one.kl, 0.0) for one in points], [one.values[name] for one in points]
        axes.plot(kls, values, linewidth=1, alpha=0.6, linestyle=":", label=label, color=style(index + 5)["color"])


def _column(axes: Any, comparison: Comparison, column: str, name: str, index: int) -> None:
    row = comparison.metrics[column]
    kl = row.get("kl", Estimate(0.0, 0.0, 0.0) if column == comparison.stage.reference else None)
    if kl is not None:
        value = row[name]
        errors = [[[max(one.mean - one.low, 0)], [max(one.high - one.mean, 0)]] for one in (kl, value)]
        axes.errorbar(
            max(kl.mean, 0),
            value.mean,
            xerr=errors[0],
            yerr=errors[1],
            label=column,
            capsize=2,
            zorder=3,
            **point(index),
        )


def laws(comparison: Comparison) -> Iterator[Drawing]:
    """Gold and proxy over a PPO run, each with the law of Gao et al., where the gold reward was logged."""
    logged = {
        path: run for path, run in comparison.paths.items() if any("objective/gold" in line for line in run.lines)
    }
    for number, (path, run) in enumerate(list(logged.items())[:FITTED], 1):
        told = []
        with canvas(6.4, 3.8) as figure:
            axes = figure.subplots()
            for index, name in enumerate(REWARDS):
                points = [one for one in trajectory(run.lines) if name in one.values]
                law = fit_law([one.kl for one in points], [one.values[name] for one in points], points[0].values[name])
                kls = [max(one.kl, 0.0) for one in points]
                gained = [one.values[name] - points[0].values[name] for one in points]
                axes.plot(np.sqrt(kls), gained, markersize=4, label=REWARDS[name], **point(index + 1))
                if law is not None:
                    grid = np.linspace(0, np.sqrt(max(kls)), 100)
                    axes.plot(grid, [law(d**2) - law.start for d in grid], **style(index + 1))
                    told.append(f"{REWARDS[name]}: {_law(law)}")
            axes.set(xlabel="d = √KL (KL in nats per response)", ylabel="gain since the first update")
            axes.legend()
            caption = (
                f"{path}: one point an update, each reward in its own units; lines are least squares fits of "
                f"R(d) = d (α - β log d), Gao et al. 2022, drawn within the data. {'; '.join(told)}."
            )
            yield finish(figure, f"law-{number}", "Gold against proxy", caption)


def _law(law: Law) -> str:
    within = f"within the data (KL up to {law.farthest:.3g})"
    peak = f"no peak {within}" if law.peak is None else f"peak at a KL of {law.peak:.3g}, {within}"
    return f"α = {law.alpha:.3g}, β = {law.beta:.3g}, {peak}"


def lengths(comparison: Comparison) -> Drawing:
    flat = {name: [n for of in answers.lengths for n in of] for name, answers in comparison.answers.items()}
    with canvas(5.2, 0.8 * len(flat) + 0.8) as figure:
        _histograms(figure.subplots(len(flat), 1, sharex=True, sharey=True, squeeze=False)[:, 0], flat, whole=True)
        figure.supxlabel("response length (tokens)", fontsize=10)
        told = "; ".join(f"{name} {np.median(values):.0f}" for name, values in flat.items())
        return finish(figure, "lengths", "How long responses are", f"Shares of responses. Medians: {told}.")


def scores(comparison: Comparison) -> Drawing | None:
    """The distribution of each reward, a row a stage."""
    answers = comparison.answers
    names = list(answers[comparison.stage.reference].scores)
    if not names:
        return None
    with canvas(5.2 * len(names), 0.8 * len(answers) + 0.8) as figure:
        grid = figure.subplots(len(answers), len(names), sharex="col", sharey="col", squeeze=False)
        for column, name in enumerate(names):
            flat = {title: [x for of in one.scores[name] for x in of] for title, one in answers.items()}
            _histograms(grid[:, column], flat, whole=False)
            grid[-1, column].set_xlabel(REWARDS.get(name, name))
        return finish(figure, "scores", "How responses score", "Shares of responses by score, a row a stage.")


def _histograms(column: Sequence[Any], flat: dict[str, list], whole: bool) -> None:
    """One below the other on one scale; ``whole``: the values are whole numbers."""
    every = [value for values in flat.values() for value in values]
    low, high = min(every), max(every)
    width = max(1, round((high - low) / 40)) if whole else (high - low) / 40 or 1.0
    edges = np.arange(low - width / 2, high + width, width)
    for index, (axes, (name, values)) in enumerate(zip(column, flat.items(), strict=True)):
        shares = np.histogram(values, edges)[0] / len(values)
        axes.stairs(shares, edges, fill=True, alpha=0.8, color=style(index)["color"])
        axes.axvline(np.median(values), color=INK, linewidth=1, linestyle=":")
        axes.set_ylabel(name, rotation=0, horizontalalignment="right", verticalalignment="center")
        axes.set_yticks([])


def reliable(comparison: Comparison) -> Drawing | None:
    """How often the reward model is right by how sure it is."""
    if comparison.reliability is None:
        return None
    bins, error, floor = comparison.reliability
    with canvas(4.4, 3.8) as figure:
        axes = figure.subplots()
        axes.plot([0.5, 1], [0.5, 1], color=INK, linewidth=0.8, linestyle=":", label="calibrated")
        axes.plot(
            [b.confidence for b in bins], [b.accuracy for b in bins], label="reward model", **(point(1) | style(1))
        )
        for one in bins:
            axes.annotate(
                str(one.count), (one.confidence, one.accuracy), (4, -10), textcoords="offset points", fontsize=8
            )
        axes.set(xlabel="confidence, σ(|score difference|)", ylabel="accuracy on held-out pairs")
        axes.legend()
        pairs = sum(one.count for one in bins)
        caption = (
            f"{pairs} held-out pairs; expected calibration error {error:.3f}, of a calibrated model {floor:.3f}. "
            "Numbers: pairs."
        )
        return finish(figure, "reliability", "Reward model calibration", caption)


def training(comparison: Comparison) -> Iterator[Drawing]:
    """The curves of each column's training, and of the reward model's."""
    for number, (name, run) in enumerate(comparison.records.items()):
        curve = run.curve()
        shown = [key for key in CURVES if len(curve.get(key, ((),))[0]) > 1][:PANELS]
        if not shown:
            continue
        with canvas(2.6 * len(shown), 2.2) as figure:
            for axes, key in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
                axes.plot(*curve[key], color=style(1)["color"])
                axes.set_title(CURVES[key], fontsize=10)
            unit = "updates" if run.stage == "ppo" else "steps"
            ends = "; ".join(f"{CURVES[key]} {curve[key][1][0]:.3g} to {curve[key][1][-1]:.3g}" for key in shown)
            yield finish(figure, f"training-{number}", f"Training of {name}", f"Over {unit}, first to last: {ends}.")
