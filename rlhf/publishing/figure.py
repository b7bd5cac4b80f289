"""Scores of PPO over the KL divergence from the reference, per update.

Gao et al. 2022, https://arxiv.org/abs/2210.10760, plot learned and gold reward over the KL divergence: a falling gold
reward with a rising learned one shows over-optimization.
"""

import json
import math
from pathlib import Path

SERIES = {"objective/scores": "reward model", "objective/gold": "gold reward"}
X = "objective/kl"
WINDOW = 10  # updates of the running mean


def points(metrics: Path) -> dict[str, list[tuple[float, float]]]:
    """Return series -> (KL in nats per response, score) of each logged update; empty if PPO logged none."""
    if not metrics.is_file():
        return {}
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    series = {
        name: [(row[X], row[name]) for row in rows if X in row and math.isfinite(row.get(name, math.nan))]
        for name in SERIES
    }
    return {name: values for name, values in series.items() if values}


def running(values: list[float], window: int = WINDOW) -> list[float]:
    """Return the running mean over at most ``window`` values up to each."""
    parts = [values[max(0, i + 1 - window) : i + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def draw(series: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Write a PNG with a dot per update and the running mean in the order of training."""
    from rlhf.evaluation.reporting.drawing import canvas, save, style

    with canvas(6.4, 4.0) as figure:
        axes = figure.add_subplot()
        for index, (name, values) in enumerate(series.items(), 1):
            x, y = ([value[i] for value in values] for i in (0, 1))
            axes.plot(x, y, "o", color=style(index)["color"], alpha=0.35, markersize=3.5, markeredgewidth=0)
            axes.plot(running(x), running(y), color=style(index)["color"], label=SERIES[name])
        axes.set(xlabel="KL to the reference (nats per response)", ylabel="score")
        axes.legend(loc="best")
    save(figure, path)
