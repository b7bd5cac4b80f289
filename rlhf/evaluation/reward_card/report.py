"""A report card for people (terminal, page, report.md, figures) and for programs (metrics.json, RewardBench's)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from rlhf.console import console
from rlhf.evaluation.reward_card import autopsy, figures, page
from rlhf.evaluation.reward_card.card import Card
from rlhf.evaluation.reward_card.pairs import LABELS
from rlhf.evaluation.reward_card.probes import PROBES
from rlhf.evaluation.reward_card.style import EQUAL
from rlhf.evaluation.statistics.intervals import Share
from rlhf.evaluation.statistics.metrics import Estimate
from rlhf.storage.json_files import write_json
from rlhf.storage.markdown import cell, table

CORRELATIONS = {
    "pearson": "correlation of score and length (Pearson)",
    "spearman": "correlation of score and length (Spearman)",
    "spearman_of_differences": "correlation of their differences within pairs (Spearman)",
}
INTERVAL = (
    "95 %: shares by Wilson's score interval with prompts as the unit, leads and the rest by a bootstrap over prompts"
)


def write(card: Card, folder: Path) -> None:
    """Write metrics.json, report.html, report.md, figures/*.png and RewardBench's two files into ``folder``."""
    write_json(folder / "metrics.json", as_json(card))
    write_json(folder / "rewardbench.json", leaderboard(card))
    write_json(folder / "rewardbench_scores.json", scores(card))
    drawn = figures.draw(card, folder / "figures")
    (folder / "report.md").write_text("\n".join(markdown(card, drawn)) + "\n", encoding="utf-8")
    images = {name: (folder / "figures" / name).read_bytes() for name in drawn}
    (folder / "report.html").write_text(page.render(card, INTERVAL, list(tables(card)), images), encoding="utf-8")


def numbers(card: Card) -> dict[str, float]:
    """Return the metrics of run.json."""
    found: dict[str, float | None] = {
        "test/accuracy": card.accuracy.mean,
        "test/accuracy_low": card.accuracy.low,
        "test/accuracy_high": card.accuracy.high,
        "test/ece": card.calibration.error,
        "test/ece_floor": card.calibration.floor,
        "test/temperature": card.calibration.temperature,
        "test/spearman_length": card.lengths["spearman"],
        "test/padding": card.padding,
        "test/equal_style": None if card.style.controlled is None else card.style.controlled.mean,
    }
    found |= {f"test/lead/{name}": rule.lead.mean for name, rule in card.baselines.items()}
    found |= {f"test/probe/{name}": one.fell.mean for name, one in card.probes.items() if one.fell is not None}
    found |= {f"test/{name}": card.members[name] for name in ("deviation", "split") if card.members}
    return {name: value for name, value in found.items() if value is not None} | card.statistics


def as_json(card: Card) -> dict[str, Any]:
    """Return the content of metrics.json."""
    found = card.calibration
    return {
        "reward": card.reward,
        "pairs": card.accuracy.count,
        "prompts": len(set(card.pairs.prompts)),
        "seed": card.limits.seed,
        "interval": f"{INTERVAL}, {card.limits.bootstrap} draws",
        "accuracy": plain(card.accuracy),
        "parts": {title: {part.name: plain(part.accuracy) for part in parts} for title, parts in card.parts.items()},
        "style": card.style.record(),
        "style_by": {title: {name: one.record() for name, one in some.items()} for title, some in card.styled.items()},
        "baselines": {
            name: {"accuracy": plain(rule.accuracy), "lead": plain(rule.lead), "beaten": rule.lead.low > 0}
            for name, rule in card.baselines.items()
        },
        "calibration": {
            "ece": found.error,
            "ece_floor": found.floor,
            "log_loss": found.log_loss,
            "bins": [part._asdict() for part in found.bins],
            "temperature": found.temperature,
            "ece_after": found.error_after,
            "log_loss_after": found.log_loss_after,
            "fitted_on": found.fitted_on,
        },
        "length": card.lengths,
        "probes": {
            name: {"right_way": "down", "why": PROBES[name], "fell": None if one.fell is None else plain(one.fell)}
            | {"mean_change": one.change, "left_out": one.left_out}
            for name, one in card.probes.items()
        },
        "padding": card.padding,
        "statistics": card.statistics,
        "members": {name: _plain(value) for name, value in card.members.items()},
        "autopsies": [autopsy.record(one, card.pairs) for one in card.autopsies],
        "notes": card.notes,
        "warnings": card.warnings,
    }


def plain(value: Share | Estimate) -> dict[str, float]:
    """Return a share or an estimate as JSON."""
    return value._asdict()


def _plain(value: Any) -> Any:
    if isinstance(value, Share):
        return plain(value)
    return [_plain(item) for item in value] if isinstance(value, list) else value


def leaderboard(card: Card) -> dict[str, Any]:
    """Return the file that RewardBench's scripts/run_rm.py writes: the accuracy of each subset, and the model's name.

    Lambert et al. 2024, https://arxiv.org/abs/2403.13787. It counts a tie as an error, so its accuracies may be lower
    than the card's.
    """
    found: dict[str, Any] = {"model": card.reward, "model_type": "Seq. Classifier", "chat_template": "tokenizer"}
    results: dict[str, list[int]] = {}
    for subset, result in zip(subsets(card), _results(card), strict=True):
        results.setdefault(subset, []).append(result)
    return found | {subset: sum(values) / len(values) for subset, values in sorted(results.items())}


def scores(card: Card) -> dict[str, Any]:
    """Return RewardBench's file of scores: column -> values of the pairs."""
    return {
        "id": list(range(len(card.pairs.rows))),
        "subset": subsets(card),
        "prompt": [row["prompt"] for row in card.pairs.rows],
        "text_chosen": card.pairs.chosen.completions,
        "text_rejected": card.pairs.rejected.completions,
        "scores_chosen": card.pairs.chosen_scores.tolist(),
        "scores_rejected": card.pairs.rejected_scores.tolist(),
        "results": _results(card),
        "model": card.reward,
        "model_type": "Seq. Classifier",
        "chat_template": "tokenizer",
    }


def subsets(card: Card) -> list[str]:
    """Return the source or task of each pair; pairs with neither form the subset ``test``."""
    return [str(row.get("source") or row.get("task") or "test") for row in card.pairs.rows]


def _results(card: Card) -> list[int]:
    return [int(difference > 0) for difference in card.pairs.differences]


def show(card: Card) -> None:
    """Print the card's tables, notes and warnings on the terminal."""
    for title, headings, lines in tables(card):
        shown = Table(title=title, title_justify="left")
        for i, heading in enumerate(headings):
            shown.add_column(Text(heading), justify="right" if i else "left", overflow="fold")
        for line in lines:
            shown.add_row(*map(Text, line))
        console.print(shown)
    for note in card.notes:
        console.print(Text(note), style="dim")
    for warning in card.warnings:
        console.print(Text(f"warning: {warning}"), style="bold yellow")


def tables(card: Card) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield title, headings and rows of each table."""
    rows = [["reward model", str(card.accuracy), str(card.accuracy.count), ""]]
    for name, rule in card.baselines.items():
        lead = f"{rule.lead.mean:+.3f} [{rule.lead.low:+.3f}, {rule.lead.high:+.3f}]"
        rows.append([name, str(rule.accuracy), str(rule.accuracy.count), lead])
    yield "Held-out accuracy", ["", "accuracy", "pairs", "reward model leads by"], rows
    for title, parts in card.parts.items():
        lines = [[part.name, str(part.accuracy), str(part.accuracy.count)] for part in parts]
        if found := card.styled.get(title):
            lines = [[*line, found[line[0]].shown(found[line[0]].controlled)] for line in lines]
        yield f"Accuracy by {LABELS.get(title, title)}", ["", "accuracy", "pairs", *([EQUAL] if found else [])], lines
    yield (
        "Apart from style",
        ["", ""],
        [[name, card.style.shown(value)] for name, value in card.style.estimates().items()],
    )
    if card.probes:
        yield (
            "Corruption test: the score should fall",
            ["", "scored lower", "responses", "mean change", "skipped"],
            [
                [
                    PROBES[name],
                    "–" if one.fell is None else str(one.fell),
                    "0" if one.fell is None else str(one.fell.count),
                    "–" if one.change is None else f"{one.change:+.2f}",
                    str(one.left_out),
                ]
                for name, one in card.probes.items()
            ],
        )
    yield "Calibration, length, padding", ["", ""], [[name, value] for name, value in details(card)]
    if card.members:
        yield "Members of the ensemble", ["", ""], [[name, value] for name, value in members(card)]


def details(card: Card) -> Iterator[tuple[str, str]]:
    """Yield label and value of calibration, length correlation, padding and score statistics."""
    found = card.calibration
    yield "ECE (expected calibration error)", f"{found.error:.3f}"
    yield "ECE of a calibrated model on these pairs", f"{found.floor:.3f}"
    yield "log loss (nats per pair; random guess 0.693)", f"{found.log_loss:.3f}"
    if found.temperature is None:
        yield f"temperature scaling (fit on {found.fitted_on})", "none"
    else:
        yield f"temperature scaling (fit on {found.fitted_on})", f"{found.temperature:.2f}"
        yield "ECE and log loss after temperature scaling", f"{found.error_after:.3f}, {found.log_loss_after:.3f}"
    for name, value in card.lengths.items():
        yield CORRELATIONS[name], "–" if value is None else f"{value:+.2f}"
    yield "largest difference between padded and unpadded scoring", f"{card.padding:.1e}"
    for name, value in card.statistics.items():
        yield f"{name} of the policy's own responses", f"{value:.3f}"


def members(card: Card) -> Iterator[tuple[str, str]]:
    """Yield label and value of the accuracy and the disagreement of an ensemble's members."""
    for number, accuracy in enumerate(card.members["accuracy"]):
        yield f"accuracy of member {number}", str(accuracy)
    yield "standard deviation between members, mean over responses", f"{card.members['deviation']:.3f}"
    yield "standard deviation of their mean between responses", f"{card.members['spread']:.3f}"
    yield "share of pairs whose order they disagree on", f"{card.members['split']:.3f}"
    for name, verb in (("agreed", "agree"), ("split", "disagree")):
        yield f"accuracy of the mean on pairs on which they {verb}", str(card.members[f"accuracy_{name}"] or "–")


def markdown(card: Card, drawn: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the report as Markdown; names from the data are escaped."""
    prompts = len(set(card.pairs.prompts))
    yield f"# Report card of {cell(card.reward)}\n"
    yield f"{card.accuracy.count} held-out pairs of {prompts} prompts, ties half, seed {card.limits.seed}. Intervals"
    yield f"are {INTERVAL} ({card.limits.bootstrap} draws).\n"
    for warning in card.warnings:
        yield f"- **Warning**: {cell(warning)}"
    for note in card.notes:
        yield f"- {cell(note)}"
    for title, headings, lines in tables(card):
        yield f"\n## {cell(title)}\n"
        yield from table(headings, lines)
    for number, one in enumerate(card.autopsies, 1):
        yield f"\n## Wrong pair {number}\n"
        yield from autopsy.markdown(one, card.pairs)
    yield "\n## Figures\n"
    yield from (f"![{Path(name).stem}](figures/{name})" for name in drawn)
