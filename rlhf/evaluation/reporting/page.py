"""The comparison as one self-contained HTML file: no network, no server; all but the examples works without a script.

Model output reaches the page in two ways. The story and the tables are rendered by Jinja2 with autoescape. The examples
are in a JSON block whose ``<``, ``>`` and ``&`` are escaped, so that no text can end it; the page's script, the only
one that its policy allows, inserts them as text nodes, some at a time.
"""

import base64
import hashlib
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rlhf.console import printable
from rlhf.data.render import question
from rlhf.evaluation.comparison.comparison import Comparison
from rlhf.evaluation.reporting import story
from rlhf.evaluation.reporting.drawing import COLORS, Drawing
from rlhf.evaluation.reporting.examples import beside, data, json_block
from rlhf.evaluation.reporting.tables import JUDGES, grids, keys_of, label_in, number, remarks, titled
from rlhf.evaluation.reporting.text_diff import pieces
from rlhf.evaluation.statistics.metrics import Estimate

LOADER = PackageLoader("rlhf.evaluation.reporting", "page_parts")
ENVIRONMENT = Environment(
    loader=LOADER,
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def part(name: str) -> Markup:
    """Return a file of the package as markup."""
    return Markup(LOADER.get_source(ENVIRONMENT, name)[0])


def render(comparison: Comparison, drawings: list[Drawing]) -> str:
    """Return the page as HTML."""
    # Only the package's files and the SVGs, whose text matplotlib escaped, are inserted as markup.
    script, css = part("report.js"), part("report.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    drawn = [(drawing, Markup(drawing.svg)) for drawing in drawings]
    judge = story.main_judge(comparison)
    examples = data(comparison)
    return ENVIRONMENT.get_template("report.html").render(
        title=f"What each stage changed: {', '.join(comparison.metrics)}",
        css=css,
        script=script,
        digest=digest,
        stage=comparison.stage,
        comparison=comparison,
        judge="gold reward" if judge == "gold" else JUDGES.get(judge, judge),
        reference=titled(comparison.stage.reference),
        verdict=story.verdict(comparison),
        example=example(comparison),
        questions=questions(comparison),
        columns=columns(comparison),
        frontier=[pair for pair in drawn if pair[0].name == "frontier"],
        changes=changes(comparison),
        lost=lost(comparison),
        metrics=metrics(comparison),
        grids=list(grids(comparison)),
        remarks=remarks(comparison),
        drawings=[pair for pair in drawn if pair[0].name != "frontier"],
        examples=examples,
        block=Markup(json_block(examples)),
    )


def columns(comparison: Comparison) -> list[dict[str, Any]]:
    """Return each stage with its color in the figures, its parent and its headlines, with their bars."""
    found = []
    for index, name in enumerate(comparison.metrics):
        numbers = [
            (headline, None if headline.share is None else bar(headline.share, 0, 1))
            for headline in story.headlines(comparison, name)
        ]
        parent = comparison.previous.get(name)
        found.append(
            {
                "name": name,
                "title": titled(name),
                "color": COLORS[index % len(COLORS)],
                "parent": None if parent is None else titled(parent),
                "headlines": numbers,
            }
        )
    return found


def bar(value: Estimate, low: float, high: float) -> str:
    """Return the place of an interval between ``low`` and ``high`` as CSS properties in percent."""
    places = (100 * (bound - low) / ((high - low) or 1) for bound in (value.low, value.mean, value.high))
    return ";".join(f"--{name}:{place:.1f}%" for name, place in zip(("low", "mean", "high"), places, strict=True))


def example(comparison: Comparison) -> dict[str, Any]:
    """Return the `typical` prompt with the response of each stage and its score."""
    i, chosen = story.typical(comparison)
    judge, answers = story.main_judge(comparison), comparison.answers
    texts = {name: answers[name].texts[i][j] for name, j in chosen.items()}
    scores = {name: answers[name].scores[judge][i][j] for name, j in chosen.items() if judge in answers[name].scores}
    return {
        "text": question(comparison.prompts[i]["prompt"]),
        "answers": [(name, marked(comparison, name, texts), scores.get(name)) for name in comparison.metrics],
    }


def changes(comparison: Comparison) -> list[dict[str, Any]]:
    """Return for each facet of the prompts the win rates over the stage before, by kind, with their bars."""
    found = []
    for facet, heading in story.FACETS.items():
        rows = [
            {
                "kind": kind.replace("_", " "),
                "prompts": sum(str(row.get(facet)) == kind for row in comparison.prompts),
                "shares": {name: (share, bar(share, 0, 1)) for name, share in shares.items()},
            }
            for kind, shares in story.changes(comparison, facet).items()
        ]
        if rows:
            found.append({"title": heading, "rows": rows})
    return found


def lost(comparison: Comparison) -> list[dict[str, Any]]:
    """Return for each stage with a parent on how many prompts it lost, tied and won, and its largest losses."""
    found = []
    for name in story.judged(comparison):
        gaps = [gap for gap in story.gaps(comparison, name, story.main_judge(comparison)) if gap is not None]
        found.append(
            {
                "name": name,
                "title": titled(name),
                "parent": titled(str(comparison.previous[name])),
                "counts": {"lost": sum(g < 0 for g in gaps), "tied": gaps.count(0), "won": sum(g > 0 for g in gaps)},
                "worst": story.losses(comparison, name)[: story.WORST],
            }
        )
    return found


def metrics(comparison: Comparison) -> list[dict[str, Any]]:
    """Return each metric with its words and its value for each stage, with a bar if it has an interval."""
    found = []
    for key in keys_of(comparison.metrics):
        values = {name: row[key] for name, row in comparison.metrics.items() if key in row}
        bounds = [bound for value in values.values() for bound in (value if isinstance(value, Estimate) else ())]
        span = (min([0, *bounds]), max([0, *bounds]))
        cells = [
            (titled(name), number(value), bar(value, *span) if isinstance(value, Estimate) else None)
            for name, value in values.items()
        ]
        found.append({"key": key, "words": label_in(comparison, key), "cells": cells})
    return found


def questions(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the stage's questions with each column's greedy response."""
    return [
        {
            "text": text,
            "answers": [
                (name, marked(comparison, name, {other: of.greedy[i] for other, of in comparison.answers.items()}))
                for name in comparison.metrics
            ],
        }
        for i, text in enumerate(comparison.stage.questions)
    ]


def marked(comparison: Comparison, name: str, texts: dict[str, str]) -> list[str]:
    """Return a column's text as `pieces` against the reference's text; the reference's own text is one piece."""
    other = beside(comparison, name)
    text = printable(texts[name].strip(), 4000)
    return [text] if other is None else pieces(text, printable(texts[other].strip(), 4000))
