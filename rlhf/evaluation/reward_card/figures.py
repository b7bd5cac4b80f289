"""The four figures of a report card. Equal cards result in equal files: without date, version or global state."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf.evaluation.reporting.drawing import COLORS, INK, canvas, save
from rlhf.evaluation.reward_card.card import Card
from rlhf.evaluation.reward_card.pairs import LABELS, Part
from rlhf.evaluation.statistics.calibration import Bin, of_pairs
from rlhf.evaluation.statistics.metrics import Numbers

GOOD, BAD, PLAIN, FAINT = COLORS[1], COLORS[2], INK, COLORS[0]
MOST_BARS = 24


def draw(card: Card, folder: Path) -> list[str]:
    """Write the figures into ``folder`` and return their file names."""
    drawn = {
        "reliability": calibration(card),
        "accuracy": accuracies(card),
        "length": score_and_length(card),
        "scores": distributions(card),
    }
    for name, figure in drawn.items():
        save(figure, folder / f"{name}.png")
    return [f"{name}.png" for name in drawn]


def _axes(figure: Figure, title: str, x: str, y: str) -> Axes:
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, loc="left", fontsize=11)
    return axes


def calibration(card: Card) -> Figure:
    """Draw accuracy over confidence, before and after temperature scaling."""
    found = card.calibration
    with canvas(5.4, 4.8) as figure:
        title = f"Reliability: ECE {found.error:.3f} (calibrated: {found.floor:.3f})"
        axes = _axes(figure, title, "confidence, σ(|score difference|)", "accuracy")
        axes.plot([0.5, 1], [0.5, 1], color=FAINT, linewidth=1, linestyle="--", label="calibrated")
        most = max(part.count for part in found.bins)
        before = (found.bins, GOOD, "before temperature scaling")
        for parts, color, label in [before, (_after(card), BAD, _tempered(card))]:
            if parts:
                x, y = [part.confidence for part in parts], [part.accuracy for part in parts]
                axes.plot(x, y, color=color, linewidth=1.2)
                axes.scatter(
                    x, y, s=[15 + 120 * part.count / most for part in parts], color=color, alpha=0.75, label=label
                )
        axes.set(xlim=(0.49, 1.01), ylim=(-0.03, 1.03))
        legend: Any = axes.legend(loc="lower right", fontsize=9)
        for handle in legend.legend_handles[1:]:
            handle.set_sizes([40])
        return figure


def _after(card: Card) -> list[Bin]:
    if card.calibration.temperature is None:
        return []
    judged = card.calibration.judged / card.calibration.temperature
    return of_pairs(judged, card.limits.calibration_bins, card.limits.seed).bins


def _tempered(card: Card) -> str:
    found = card.calibration
    return "" if found.temperature is None else f"temperature {found.temperature:.2f}: ECE {found.error_after:.3f}"


def accuracies(card: Card) -> Figure:
    """Draw the accuracy of the reward model, of the baselines and on parts of the pairs, with intervals and counts."""
    rows: list[tuple[str, Part | None, str]] = [("", Part("reward model", card.accuracy), GOOD)]
    for name, found in card.baselines.items():
        rows.append(("", Part(name, found.accuracy), BAD))
    for title, parts in card.parts.items():
        rows.append((title, None, PLAIN))
        rows += [("", part, PLAIN) for part in parts[:MOST_BARS]]
    with canvas(7.2, 1.2 + 0.26 * len(rows)) as figure:
        axes = _axes(figure, "Held-out accuracy, 95 % intervals", "accuracy", "")
        labels = []
        for y, (title, part, color) in enumerate(rows):
            if part is None:
                labels.append(LABELS.get(title, title))
                continue
            labels.append(f"{_short(part.name)}  ({part.accuracy.count})")
            share = part.accuracy
            axes.plot([share.low, share.high], [y, y], color=color, linewidth=1.6)
            axes.plot([share.mean], [y], color=color, marker="o", markersize=4.5)
        axes.axvline(0.5, color=FAINT, linewidth=1, linestyle="--")
        axes.set_yticks(range(len(rows)), labels, fontsize=8.5)
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
        axes.tick_params(axis="y", length=0)
        return figure


def _short(name: str, most: int = 42) -> str:
    """Return a name from the data on one line of at most ``most`` characters."""
    printed = "".join(char if char.isprintable() else " " for char in name)
    return printed if len(printed) <= most else f"{printed[: most - 1]}…"


def score_and_length(card: Card) -> Figure:
    """Draw the score of each response over its length in characters."""
    found = card.lengths["spearman"]
    correlation = "–" if found is None else f"{found:+.2f}"
    with canvas(6.4, 4.6) as figure:
        axes = _axes(figure, f"Score and length: Spearman {correlation}", "characters of the response", "score")
        lengths = card.pairs.lengths
        both = np.array([card.pairs.rejected_scores, card.pairs.chosen_scores])
        # Pair by pair: if one kind were drawn after the other, it would hide it.
        colors = [BAD, GOOD] * both.shape[1]
        axes.scatter(lengths[::-1].T.ravel(), both.T.ravel(), s=12, alpha=0.45, c=colors, linewidths=0)
        for color, label in ((BAD, "rejected"), (GOOD, "chosen")):
            axes.scatter([], [], s=30, color=color, label=label, linewidths=0)
        if lengths.max() > 50 * max(np.median(lengths), 1):
            axes.set_xscale("symlog")
        axes.legend(fontsize=9)
        return figure


def distributions(card: Card) -> Figure:
    """Draw histograms of the scores of chosen and rejected responses, and of the differences within pairs."""
    with canvas(8.6, 3.8) as figure:
        scores, differences = figure.subplots(1, 2)
        bins = _edges(np.concatenate([card.pairs.chosen_scores, card.pairs.rejected_scores]))
        for values, color, label in [
            (card.pairs.rejected_scores, BAD, "rejected"),
            (card.pairs.chosen_scores, GOOD, "chosen"),
        ]:
            scores.hist(values, bins=bins, color=color, alpha=0.55, label=label)
        scores.legend(fontsize=9)
        scores.set(xlabel="score", ylabel="responses")
        scores.set_title("Scores", loc="left", fontsize=11)
        edges = _edges(card.pairs.differences)
        differences.hist(card.pairs.differences, bins=edges, color=PLAIN, alpha=0.75)
        differences.axvline(0, color=BAD, linewidth=1.2)
        differences.set(xlabel="score of chosen - score of rejected", ylabel="pairs")
        differences.set_title(f"Within pairs: {card.accuracy.mean:.3f} above 0", loc="left", fontsize=11)
        return figure


def _edges(values: Numbers, bins: int = 32) -> np.ndarray:
    low, high = float(np.min(values)), float(np.max(values))
    if high - low < 1e-9 * max(abs(low), abs(high), 1.0):  # too narrow for distinct edges
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)
