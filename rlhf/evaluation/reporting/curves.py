"""The curves of a training run: the metrics that its documentation explains first, over the steps, and all as CSV."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.evaluation.comparison.records import read_lines
from rlhf.evaluation.reporting.drawing import Drawing, canvas, finish, style
from rlhf.storage.manifest import read_manifest

SHADOWS = "shadow/"  # prefix of the metrics of shadow rewards; each has a deviation, too, which is not drawn
PANELS: Mapping[str, tuple[str, ...]] = {  # title -> the metrics that share an axis, those that a run has
    "loss": ("train/loss", "eval/loss"),
    "accuracy": (
        "train/accuracy", "eval/accuracy", "train/rewards/accuracies", "eval/rewards/accuracies",
    ),
    "token accuracy": ("train/mean_token_accuracy", "eval/mean_token_accuracy"),
    "margin": ("train/margin", "eval/margin", "train/rewards/margins", "eval/rewards/margins"),
    "reward": ("objective/scores", "objective/gold", "score", "gold"),
    "win rate": ("win_rate", "win_rate/previous"),
    "shadow rewards": (SHADOWS,),
    "KL to the reference (nats per response)": ("objective/kl", "kl"),
    "pretraining loss": ("loss/ptx_avg",),
    "EOS rate": ("val/ended",),
    "entropy": ("train/entropy", "policy/entropy_avg"),
    "explained variance": ("val/explained_variance",),
    "response length": ("val/response_length",),
}  # fmt: skip
COLUMNS = 2
Points = tuple[list[float], list[float]]  # steps, values


def write(work: Path, forms: Sequence[str], title: str) -> None:
    """Write curves.svg and metrics.csv to a run's directory, those that ``forms`` names, from its metrics.jsonl."""
    lines = read_lines(work / "metrics.jsonl")
    if "csv" in forms and lines:
        write_csv(lines, work / "metrics.csv")
    found = panels(lines) if "svg" in forms else {}
    if found:
        fell = falls(read_manifest(work) or {})
        (work / "curves.svg").write_text(draw(found, title, fell).standalone(), encoding="utf-8")


def write_csv(lines: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write a row per logged line; a metric that a line lacks is empty."""
    names = dict.fromkeys(name for line in lines for name in line)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, list(names), lineterminator="\n")
        rows.writeheader()
        rows.writerows(lines)


def panels(lines: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Points]]:
    """Return title -> metric -> its finite values, without empty ones."""
    found: dict[str, dict[str, Points]] = {}
    logged = sorted({name for line in lines for name in line if name.startswith(SHADOWS)})
    shadows = [name for name in logged if f"{name}_std" in logged]
    for title, names in PANELS.items():
        for name in shadows if SHADOWS in names else names:
            own = [(line["step"], line[name]) for line in lines if math.isfinite(line.get(name, math.nan))]
            if own:
                found.setdefault(title, {})[name] = ([step for step, _ in own], [value for _, value in own])
    return found


def falls(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Return metric -> the update at which it fell while the score rose, of gold and shadow rewards that did."""
    return {fall["name"]: fall["update"] for fall in manifest.get("falls", ()) if fall["update"] is not None}


def draw(found: Mapping[str, Mapping[str, Points]], title: str, fell: Mapping[str, int]) -> Drawing:
    """Return the figure: a panel per title; lines between few points have marks, and a fall has a vertical line."""
    rows = -(-len(found) // COLUMNS)
    with canvas(4.2 * min(len(found), COLUMNS), 2.4 * rows) as figure:
        for place, (panel, series) in enumerate(found.items(), 1):
            axes = figure.add_subplot(rows, min(len(found), COLUMNS), place)
            for index, (name, (steps, values)) in enumerate(series.items(), 1):
                label = f"{name}, fell at {fell[name]}" if name in fell else name
                axes.plot(steps, values, **style(index), label=label, marker="." if len(steps) < 20 else None)
                if name in fell:
                    axes.axvline(fell[name], color=style(index)["color"], linewidth=0.8)
            axes.set(title=panel, xlabel="step")
            if len(series) > 1 or fell.keys() & series.keys():
                axes.legend(loc="best", fontsize="small")
        return finish(figure, "curves", f"Training curves of {title}", "")
