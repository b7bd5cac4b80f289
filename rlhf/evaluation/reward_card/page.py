"""The report card as one self-contained HTML file without a script; Jinja2 escapes every text."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.console import printable
from rlhf.data.render import question
from rlhf.evaluation.reporting.page import ENVIRONMENT, part
from rlhf.evaluation.reward_card.autopsy import NAMES, Autopsy, largest
from rlhf.evaluation.reward_card.card import Card

LONGEST = 4000  # characters of a text
FIGURES = {
    "reliability": "Accuracy by confidence",
    "accuracy": "Held-out accuracy, of the baselines and by part",
    "length": "Score and length",
    "scores": "Scores, and differences within pairs",
}  # file without its suffix -> title
Table = tuple[str, list[str], list[list[str]]]  # title, headings, rows


def render(card: Card, interval: str, tables: Sequence[Table], images: Mapping[str, bytes]) -> str:
    """Return the page; ``interval`` explains the intervals, ``images`` are PNGs by their file names."""
    drawn = {
        FIGURES[Path(name).stem]: f"data:image/png;base64,{base64.b64encode(content).decode()}"
        for name, content in images.items()
    }
    return ENVIRONMENT.get_template("card.html").render(
        css=part("report.css"), card=card, interval=interval, tables=tables, figures=drawn,
        prompts=len(set(card.pairs.prompts)), wrong=[wrong_pair(card, one) for one in card.autopsies],
    )  # fmt: skip


def wrong_pair(card: Card, one: Autopsy) -> dict[str, Any]:
    """Return the texts of an autopsy: its responses in tokens, with the largest changes of the score, and neighbors."""
    sides = []
    for name in NAMES:
        steps: Any = getattr(one, name)
        shown = largest(steps)
        tokens = [
            (printable(text, LONGEST), f"{change:+.2f}" if i in shown else None)
            for i, (text, change) in enumerate(steps)
        ]
        sides.append((name, getattr(card.pairs, f"{name}_scores")[one.pair], tokens))
    near = [
        (
            title,
            f"{found.influence:+.3g}",
            [printable(question(found.row[name]), LONGEST) for name in ("prompt", *NAMES)],
        )
        for title, several in (("for", one.supporting), ("against", one.opposing))
        for found in several
    ]
    prompt = question(card.pairs.rows[one.pair]["prompt"])
    return {
        "prompt": printable(prompt, LONGEST), "title": printable(prompt, 80), "sides": sides, "near": near,
        "difference": card.pairs.differences[one.pair],
    }  # fmt: skip
