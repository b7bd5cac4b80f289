"""What PPO gained against what it moved: scores over the divergence from the reference, update by update.

Gao et al. 2022, https://arxiv.org/abs/2210.10760, plot both over the KL divergence: where the gold reward turns down
while the learned one goes on, the policy has followed a proxy too far.
"""

import json
import math
from pathlib import Path

SERIES = {"objective/scores": "reward model", "objective/gold": "gold reward"}
X = "objective/kl"
COLOURS = ("#0b6e99", "#c4553b")
WINDOW = 10  # updates of the running mean


def points(metrics: Path) -> dict[str, list[tuple[float, float]]]:
    """Series -> (divergence in nats a response, score) of each logged update; empty where PPO logged none."""
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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (name, values), colour in zip(series.items(), COLOURS, strict=False):
        x, y = ([value[i] for value in values] for i in (0, 1))
        axes.plot(x, y, "o", color=colour, alpha=0.35, markersize=3.5, markeredgewidth=0)
        axes.plot(running(x), running(y), color=colour, linewidth=1.8, label=SERIES[name])
    axes.set_xlabel("KL divergence from the reference, nats a response")
    axes.set_ylabel("score")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.legend(frameon=False, loc="best")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})  # equal runs draw equal bytes
