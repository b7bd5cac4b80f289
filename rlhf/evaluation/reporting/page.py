"""The comparison as one self-contained HTML file: no network, no server; questions and tables work without a script.

Model output reaches the page in two ways. The questions and the tables are rendered by Jinja2 with autoescape. The
responses are in a JSON block whose ``<``, ``>`` and ``&`` are escaped, so that no text can end it; the page's script,
the only one that its policy allows, inserts them as text nodes.
"""

import base64
import hashlib
import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rlhf.console import printable
from rlhf.data.render import Prompt, question
from rlhf.evaluation.comparison.comparison import Comparison, Row
from rlhf.evaluation.reporting.drawing import Drawing
from rlhf.evaluation.reporting.tables import JUDGES, grids, meanings, remarks
from rlhf.evaluation.reporting.text_diff import pieces
from rlhf.evaluation.responses.answers import Answers

BUDGET = 10_000_000
"""Characters of responses on a page. Above it, the page has fewer samples per prompt, then truncated ones."""
SHORTEST = 1000
"""Characters of a response that are never truncated."""
FACETS = ("task", "held_out", "format", "source")
MOST_KINDS = 40  # values of a facet; a filter with more, such as one per prompt, is useless
ESCAPES = {code: f"\\u{code:04x}" for code in (*map(ord, "<>&\u2028\u2029"), *range(0xD800, 0xE000))}


def render(comparison: Comparison, drawings: list[Drawing]) -> str:
    """Return the page as HTML."""
    loader = PackageLoader("rlhf.evaluation.reporting", "page_parts")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Only the package's files and the SVGs, whose text matplotlib escaped, are inserted as markup.
    script, css = (Markup(loader.get_source(environment, name)[0]) for name in ("report.js", "report.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        title=f"What each stage changed: {', '.join(comparison.metrics)}",
        css=css,
        script=script,
        digest=digest,
        stage=comparison.stage,
        comparison=comparison,
        questions=questions(comparison),
        grids=list(grids(comparison)),
        meanings=meanings(comparison),
        remarks=remarks(comparison),
        drawings=[(drawing, Markup(drawing.svg)) for drawing in drawings],
        block=Markup(json_block(data(comparison))),
    )


def json_block(value: Any) -> str:
    """Return JSON that is safe inside a script element: no text in it can close the element or open a comment."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(ESCAPES)


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


def beside(comparison: Comparison, name: str) -> str | None:
    """Return the column that a column's words are marked against: the reference; None for the reference itself."""
    return None if name == comparison.stage.reference else comparison.stage.reference


def data(comparison: Comparison) -> dict[str, Any]:
    """Return the data of the page's script: prompts, responses in pieces, and the facets to filter by."""
    names = list(comparison.metrics)
    samples, most = room(comparison)
    facets = {facet: found for facet in FACETS if 1 < len(found := kinds(comparison, facet)) <= MOST_KINDS}
    return {
        "models": names,
        "reference": comparison.stage.reference,
        "rewards": [JUDGES.get(name, name) for name in comparison.answers[comparison.stage.reference].scores],
        "facets": facets,
        "samples": samples,
        "prompts": [
            {
                "prompt": turns(row["prompt"]),
                "facets": {facet: str(row[facet]) for facet in facets if row.get(facet) is not None},
                "means": {name: means(comparison.answers[name], i) for name in names},
                "responses": {name: responses(comparison, name, i, samples, most) for name in names},
            }
            for i, row in first(comparison)
        ],
    }


def first(comparison: Comparison) -> list[tuple[int, Row]]:
    """Return the prompts with their indices, the stage's questions first."""
    asked = comparison.stage.questions
    return sorted(enumerate(comparison.prompts), key=lambda pair: question(pair[1]["prompt"]) not in asked)


def kinds(comparison: Comparison, facet: str) -> list[str]:
    """Return the values of a facet."""
    return sorted({str(row[facet]) for row in comparison.prompts if row.get(facet) is not None})


def means(answers: Answers, i: int) -> list[float]:
    """Return the mean of each reward over all samples of prompt i, including those that are not on the page."""
    return [round(sum(scores[i]) / len(scores[i]), 4) for scores in answers.scores.values()]


def turns(prompt: Prompt) -> list[tuple[str, str]]:
    """Return role and content of each message; a string prompt is one message without a role."""
    return [("", prompt)] if isinstance(prompt, str) else [(turn["role"], turn["content"]) for turn in prompt]


def room(comparison: Comparison) -> tuple[int, int | None]:
    """Return how many samples per prompt fit on the page, and to how many characters they are cut (None: not cut)."""
    samples = comparison.stage.samples
    sizes = [
        sum(len(texts[j]) for answers in comparison.answers.values() for texts in answers.texts) for j in range(samples)
    ]
    fit = next((n for n in range(samples, 0, -1) if sum(sizes[:n]) <= BUDGET), 0)
    if fit:
        return fit, None
    return 1, max(SHORTEST, BUDGET // (len(comparison.answers) * len(comparison.prompts)))


def responses(comparison: Comparison, name: str, i: int, samples: int, most: int | None) -> list[dict[str, Any]]:
    """Return a column's samples to prompt i: pieces, tokens, whether it ended with EOS, scores, characters cut off."""
    answers, other = comparison.answers[name], beside(comparison, name)
    found = []
    for j in range(samples):
        text = answers.texts[i][j]
        shown = text[:most]
        against = None if other is None else comparison.answers[other].texts[i][j][:most]
        found.append(
            {
                "pieces": [shown] if against is None else pieces(shown, against),
                "tokens": answers.lengths[i][j],
                "ended": answers.ended[i][j],
                "scores": [round(answers.scores[reward][i][j], 3) for reward in answers.scores],
                **({} if answers.kl is None else {"kl": round(answers.kl[i][j], 3)}),
                **({"cut": len(text) - len(shown)} if len(text) > len(shown) else {}),
            }
        )
    return found
