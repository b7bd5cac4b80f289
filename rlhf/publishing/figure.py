"""What PPO gained against what it moved: scores over the divergence from the reference, update by update.

Gao et al. 2022, https://arxiv.org/abs/2210.10760, plot both over the KL divergence: where the gold reward turns down
while the learned one goes on, the policy has followed a proxy too far.
"""

import json
import math
from pathlib import Path

SERIES = {"objective/scores": "reward model", "objective/gold": "gold reward"}
X = "objective/kl"
WINDOW = 10  # updates of the running mean


def points(metrics: Path) -> dict[str, list[tuple[float, float]]]:
    """Series -> (KL in nats per response, score) of each logged update; empty where PPO logged none."""
    if not metrics.is_file():
        return {}
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    found = {
        name: [(row[X], row[name]) for row in rows if X in row and math.isfinite(row.get(name, math.nan))]
        for name in SERIES
    }
    return {name: series for name, series in found.items() if series}


def running(values: list[float], window: int = WINDOW) -> list[float]:
    """Mean of each value and of those before it, ``window`` at most."""
    parts = [values[max(0, i + 1 - window) : i + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def draw(series: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Write a PNG: a dot for each update, and the running mean along the way that training went."""
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
