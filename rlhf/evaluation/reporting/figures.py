"""The figures of a comparison. A figure is left out if its metrics were not measured."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from rlhf.evaluation.comparison.comparison import Comparison, interval
from rlhf.evaluation.comparison.frontier import Law, Point, best_of_n_points, fit_law, trajectory
from rlhf.evaluation.comparison.records import Record
from rlhf.evaluation.reporting.drawing import INK, Drawing, canvas, finish, point, style
from rlhf.evaluation.reporting.tables import titled
from rlhf.evaluation.statistics.metrics import Estimate

REWARDS = {"gold": "gold reward", "reward": "reward model"}
# The curves of a stage's log that are drawn, most informative first; up to `PANELS` per stage.
CURVES = {
    "train/loss": "loss in training", "eval/loss": "loss held out", "train/accuracy": "accuracy in training",
    "eval/accuracy": "accuracy held out", "train/rewards/accuracies": "implicit accuracy",
    "train/rewards/margins": "implicit margin", "objective/scores": "reward model", "objective/gold": "gold reward",
    "objective/kl": "KL (nats per response)", "objective/entropy": "entropy",
    "val/response_length": "response length (tokens)",
    "train/mean_token_accuracy": "token accuracy in training",
}  # fmt: skip
PANELS = 4
FITTED = 3  # PPO runs whose law is drawn


def figures(comparison: Comparison) -> list[Drawing]:
    """Return all figures of a comparison."""
    drawn = [frontier(comparison), *laws(comparison), lengths(comparison), scores(comparison), reliable(comparison)]
    return [drawing for drawing in (*drawn, *training(comparison)) if drawing is not None]


def frontier(comparison: Comparison) -> Drawing | None:
    """Draw reward over KL from the reference: the columns, best-of-n of the reference's samples, and PPO's log."""
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
    """Return the rewards that score the responses, gold first."""
    return [name for name in REWARDS if name in comparison.metrics[comparison.stage.reference]]


def reference_points(comparison: Comparison) -> list[Point]:
    """Return best-of-n of the reference's samples, picked by the reward model if there is one."""
    names = rewards_of(comparison)
    return best_of_n_points(comparison.answers[comparison.stage.reference].scores, _proxy(names)) if names else []


def _proxy(names: Sequence[str]) -> str:
    """Return the reward that best-of-n selects by: the reward model if there is one."""
    return "reward" if "reward" in names else names[0]


def _best(axes: Any, best: Sequence, name: str) -> None:
    kls, values = [at.kl for at in best], [at.values[name] for at in best]
    axes.plot(
        kls, values, color=INK, marker="<", markerfacecolor="none", markersize=5, linestyle="--", linewidth=0.8,
        label="best of n, KL at most",
    )  # fmt: skip
    for n in (2, 4, 8, 16, 32, 64):
        if n <= len(best):
            axes.annotate(f"n={n}", (kls[n - 1], values[n - 1]), (3, -11), textcoords="offset points", fontsize=8)


def _path(axes: Any, run: Record, name: str, path: str, index: int) -> None:
    points = [at for at in trajectory(run.lines) if name in at.values]
    if points:
        label = f"{'/'.join(path.split('/')[-3:])}, training prompts"
        kls, values = [max(at.kl, 0.0) for at in points], [at.values[name] for at in points]
        axes.plot(kls, values, linewidth=1, alpha=0.6, linestyle=":", label=label, color=style(index + 5)["color"])


def _column(axes: Any, comparison: Comparison, column: str, name: str, index: int) -> None:
    row = comparison.metrics[column]
    at_reference = Estimate(0.0, 0.0, 0.0) if column == comparison.stage.reference else None
    kl, value = interval(row, "kl") or at_reference, interval(row, name)
    if kl is not None and value is not None:
        errors = [[[max(of.mean - of.low, 0)], [max(of.high - of.mean, 0)]] for of in (kl, value)]
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
    """Draw gold and proxy reward over KL for each PPO run that logged the gold reward, with the law of Gao et al."""
    logged = {
        path: run for path, run in comparison.paths.items() if any("objective/gold" in line for line in run.lines)
    }
    for number, (path, run) in enumerate(list(logged.items())[:FITTED], 1):
        fits = []
        with canvas(6.4, 3.8) as figure:
            axes = figure.subplots()
            for index, name in enumerate(REWARDS):
                points = [at for at in trajectory(run.lines) if name in at.values]
                start = points[0].values[name]
                law = fit_law([at.kl for at in points], [at.values[name] for at in points], start)
                kls, gained = [max(at.kl, 0.0) for at in points], [at.values[name] - start for at in points]
                axes.plot(np.sqrt(kls), gained, markersize=4, label=REWARDS[name], **point(index + 1))
                if law is not None:
                    grid = np.linspace(0, np.sqrt(max(kls)), 100)
                    axes.plot(grid, [law(d**2) - law.start for d in grid], **style(index + 1))
                    fits.append(f"{REWARDS[name]}: {_law(law)}")
            axes.set(xlabel="d = √KL (KL in nats per response)", ylabel="gain since the first update")
            axes.legend()
            caption = (
                f"{path}: one point per update, each reward in its own units; lines are least squares fits of "
                f"R(d) = d (α - β log d), Gao et al. 2022, drawn within the data. {'; '.join(fits)}."
            )
            yield finish(figure, f"law-{number}", "Gold vs. proxy reward", caption)


def _law(law: Law) -> str:
    within = f"within the data (KL up to {law.farthest:.3g})"
    peak = f"no peak {within}" if law.peak is None else f"peak at a KL of {law.peak:.3g}, {within}"
    return f"α = {law.alpha:.3g}, β = {law.beta:.3g}, {peak}"


def lengths(comparison: Comparison) -> Drawing:
    """Draw the distribution of response lengths, one row per model."""
    flat = {name: [n for of in answers.lengths for n in of] for name, answers in comparison.answers.items()}
    with canvas(5.2, 0.8 * len(flat) + 0.8) as figure:
        _histograms(figure.subplots(len(flat), 1, sharex=True, sharey=True, squeeze=False)[:, 0], flat, whole=True)
        figure.supxlabel("response length (tokens)", fontsize=10)
        medians = "; ".join(f"{name} {np.median(values):.0f}" for name, values in flat.items())
        return finish(figure, "lengths", "Response lengths", f"Shares of responses. Medians: {medians}.")


def scores(comparison: Comparison) -> Drawing | None:
    """Draw the distribution of each reward, one row per model."""
    answers = comparison.answers
    names = list(answers[comparison.stage.reference].scores)
    if not names:
        return None
    with canvas(5.2 * len(names), 0.8 * len(answers) + 0.8) as figure:
        grid = figure.subplots(len(answers), len(names), sharex="col", sharey="col", squeeze=False)
        for column, name in enumerate(names):
            flat = {title: [x for of in model.scores[name] for x in of] for title, model in answers.items()}
            _histograms(grid[:, column], flat, whole=False)
            grid[-1, column].set_xlabel(REWARDS.get(name, name))
        return finish(figure, "scores", "Response scores", "Shares of responses by score, one row per model.")


def _histograms(column: Iterable[Any], flat: dict[str, list], whole: bool) -> None:
    """Draw histograms below each other on one scale; ``whole``: the values are integers."""
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
    """Draw the reward model's accuracy by its confidence."""
    if comparison.reliability is None:
        return None
    bins, error, floor = comparison.reliability
    with canvas(4.4, 3.8) as figure:
        axes = figure.subplots()
        axes.plot([0.5, 1], [0.5, 1], color=INK, linewidth=0.8, linestyle=":", label="calibrated")
        axes.plot(
            [b.confidence for b in bins], [b.accuracy for b in bins], label="reward model", **(point(1) | style(1))
        )
        for b in bins:
            axes.annotate(str(b.count), (b.confidence, b.accuracy), (4, -10), textcoords="offset points", fontsize=8)
        axes.set(xlabel="confidence, σ(|score difference|)", ylabel="accuracy on held-out pairs")
        axes.legend()
        caption = (
            f"{sum(b.count for b in bins)} held-out pairs; expected calibration error {error:.3f}, for a calibrated "
            f"model {floor:.3f}. Numbers: pairs."
        )
        return finish(figure, "reliability", "Reward model calibration", caption)


def training(comparison: Comparison) -> Iterator[Drawing]:
    """Draw the training curves of each column and of the reward model."""
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
