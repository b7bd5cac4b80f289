"""The figures of a leaderboard: reward vs. KL over all jobs, and the effect of each setting."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from rlhf.config.objective import METRICS
from rlhf.evaluation.comparison.frontier import efficient
from rlhf.evaluation.reporting.drawing import INK, Drawing, canvas, finish, point, style
from rlhf.evaluation.sweeps.jobs import Job
from rlhf.evaluation.sweeps.leaderboard import Leaderboard, Row, values_of

REWARDS = ("gold", "win_rate", "score")
PANELS = 2
MOST_EFFECTS = 8


def figures(found: Leaderboard) -> list[Drawing]:
    """Return all figures of a leaderboard."""
    return [*frontier(found), *effects(found)]


def rewards(found: Leaderboard) -> list[str]:
    """Return the rewards that can be drawn over the KL: those that all rows have, with the KL."""
    return [name for name in REWARDS if found.rows and all({name, "kl"} <= set(row.values) for row in found.rows)]


def efficient_jobs(jobs: Sequence[Job], reward: str) -> list[Job]:
    """Return the jobs that no other job beats in reward without a higher KL."""
    values = list(zip(values_of(jobs, reward), values_of(jobs, "kl"), strict=True))
    front = efficient(values, [METRICS[reward].direction, "minimize"])
    return [job for job, kept in zip(jobs, front, strict=True) if kept]


def frontier(found: Leaderboard) -> Iterator[Drawing]:
    """Draw reward over KL: all jobs, non-dominated ones ringed, and mean and deviation of each configuration."""
    names = rewards(found)[:PANELS]
    if not names:
        return
    stages = list(dict.fromkeys(row.stage for row in found.rows))
    efficiency = []
    with canvas(5.2 * len(names), 4.0) as figure:
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            jobs = [job for row in found.rows for job in row.jobs]
            for stage in stages:
                _method(axes, [row for row in found.rows if row.stage == stage], name, stages.index(stage) + 1)
            front = sorted(efficient_jobs(jobs, name), key=lambda job: values_of([job], "kl"))
            kls, values = _clipped(values_of(front, "kl")), values_of(front, name)
            axes.plot(kls, values, color=INK, linewidth=0.8, linestyle=":", zorder=1)
            ring = {"markersize": 11, "markerfacecolor": "none", "color": INK, "linestyle": "none", "marker": "o"}
            axes.plot(kls, values, label="no run beats it", **ring)
            axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
            axes.set_xlim(0, 1.2 * max(*values_of(jobs, "kl"), 0.01))  # room for names
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.set(xlabel="KL to the starting policy (nats per response)", ylabel=METRICS[name].told)
            efficiency.append(f"{METRICS[name].told}: {len(front)} of {len(jobs)}")
        handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
        yield finish(
            figure,
            "frontier",
            "Reward vs. KL",
            "Small points: runs. Error bars: mean and standard deviation of a configuration over its seeds. Ringed: "
            f"runs that no other run beats without a higher KL ({'; '.join(efficiency)}). The horizontal axis is a "
            "square root.",
        )


def _clipped(kls: Sequence[float]) -> list[float]:
    return [max(kl, 0.0) for kl in kls]  # the estimate of a small KL may be negative


def _method(axes: Any, rows: Sequence[Row], name: str, index: int) -> None:
    ordered = sorted(rows, key=lambda row: row.values["kl"].mean)
    jobs = [job for row in ordered for job in row.jobs]
    runs = _clipped(values_of(jobs, "kl")), values_of(jobs, name)
    axes.plot(*runs, markersize=4, alpha=0.6, label=f"{rows[0].stage}, runs", **point(index))
    kls, values = [row.values["kl"] for row in ordered], [row.values[name] for row in ordered]
    axes.errorbar(
        _clipped([kl.mean for kl in kls]),
        [value.mean for value in values],
        xerr=[kl.deviation or 0 for kl in kls],
        yerr=[value.deviation or 0 for value in values],
        capsize=2,
        label=f"{rows[0].stage}, means",
        **style(index),
    )
    for place, (row, kl, value) in enumerate(zip(ordered, kls, values, strict=True)):
        beside, side = ((-5, 7), "right") if place % 2 else ((5, -11), "left")  # alternate, since points may be close
        text = " ".join(f"{key.rpartition('.')[2]} {value}" for key, value in row.knobs.items())
        axes.annotate(text, (max(kl.mean, 0), value.mean), beside, textcoords="offset points", ha=side, fontsize=8)


def effects(found: Leaderboard) -> Iterator[Drawing]:
    """Draw the first objective by the value of each setting, averaged over the other settings, if several vary."""
    keys = moving(found)[:MOST_EFFECTS]
    if not keys:
        return
    name = found.objective[0]
    with canvas(2.6 * len(keys), 2.6) as figure:
        for index, (axes, key) in enumerate(
            zip(figure.subplots(1, len(keys), sharey=True, squeeze=False)[0], keys, strict=True)
        ):
            _effect(axes, found, key, name, index + 1)
            axes.set_title(key, fontsize=10)
        figure.axes[0].set_ylabel(METRICS[name].told)
        yield finish(
            figure,
            "effects",
            "Effect of each setting",
            "Points: runs. Lines: means over all runs with that value, for any values of the other settings.",
        )


def moving(found: Leaderboard) -> list[str]:
    """Return the settings that vary, of stages with several such settings; for a single one the table is enough."""
    keys: dict[str, None] = {}
    for stage in {row.stage: None for row in found.rows}:
        rows = [row for row in found.rows if row.stage == stage]
        own = [key for key in found.keys if len({row.knobs.get(key) for row in rows}) > 1]
        keys |= dict.fromkeys(own if len(own) > 1 else ())
    return list(keys)


def _effect(axes: Any, found: Leaderboard, key: str, name: str, index: int) -> None:
    by: dict[str, list[float]] = {}
    for row in found.rows:
        if key in row.knobs:
            by.setdefault(row.knobs[key], []).extend(values_of(row.jobs, name))
    numbers = {text: value for text in by if (value := _number(text)) is not None}
    numeric = len(numbers) == len(by)
    texts = sorted(by, key=numbers.__getitem__ if numeric else None)
    places: Sequence[float] = [numbers[text] for text in texts] if numeric else range(len(texts))
    for place, text in zip(places, texts, strict=True):
        axes.plot([place] * len(by[text]), by[text], markersize=4, alpha=0.6, **point(index))
    axes.plot(places, [statistics.fmean(by[text]) for text in texts], **style(index))
    if not numeric:
        axes.set_xticks(places, texts)
    elif min(places) > 0 and max(places) / min(places) > 20:
        axes.set_xscale("log")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
