"""The comparison as one HTML file that needs nothing else: no network, no server, no script for what matters most.

What a model wrote reaches the page in two ways. The questions and the tables go through Jinja2 with autoescape on. The
responses lie in a JSON block whose ``<``, ``>`` and ``&`` are escaped, so that no text can end it, and the page's
script, the only one that its policy allows, puts them in as text nodes.
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
from rlhf.evaluation.reporting.tables import grids, meanings, remarks
from rlhf.evaluation.reporting.text_diff import pieces
from rlhf.evaluation.responses.answers import Answers

BUDGET = 10_000_000
"""Characters of responses on a page. Beyond, fewer samples of each prompt are on it, then shorter ones."""
SHORTEST = 1000
"""Characters to which no response is cut, however many there are."""
FACETS = ("task", "held_out", "format", "source")
MOST_KINDS = 40  # of a facet; one that tells every prompt apart filters nothing
ESCAPES = {code: f"\\u{code:04x}" for code in (*map(ord, "<>&\u2028\u2029"), *range(0xD800, 0xE000))}


def render(comparison: Comparison, drawings: list[Drawing]) -> str:
    environment = Environment(
        loader=PackageLoader("rlhf.evaluation.reporting", "page_parts"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Our own files, and SVG whose text matplotlib escaped: everything else is escaped here.
    script, css = (Markup(environment.loader.get_source(environment, name)[0]) for name in ("report.js", "report.css"))
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
    """JSON that can stand inside a script element: no text in it can close the element or open a comment."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(ESCAPES)


def questions(comparison: Comparison) -> list[dict[str, Any]]:
    """The stage's questions with every column's greedy answer."""
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
    """A column's text in pieces that are alternately as in the column that it is marked against and not."""
    other = beside(comparison, name)
    text = printable(texts[name].strip(), 4000)
    return [text] if other is None else pieces(text, printable(texts[other].strip(), 4000))


def beside(comparison: Comparison, name: str) -> str | None:
    """The column that a column's words are marked against: the reference, and for the reference nothing."""
    return None if name == comparison.stage.reference else comparison.stage.reference


def data(comparison: Comparison) -> dict[str, Any]:
    """What the page's script shows: every prompt, the responses in pieces, and by what to filter."""
    names = list(comparison.metrics)
    samples, most = room(comparison)
    facets = {facet: found for facet in FACETS if 1 < len(found := kinds(comparison, facet)) <= MOST_KINDS}
    return {
        "models": names,
        "reference": comparison.stage.reference,
        "rewards": list(comparison.answers[comparison.stage.reference].scores),
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
    """The prompts with their places, the stage's own questions before the others."""
    asked = comparison.stage.questions
    return sorted(enumerate(comparison.prompts), key=lambda pair: question(pair[1]["prompt"]) not in asked)


def kinds(comparison: Comparison, facet: str) -> list[str]:
    return sorted({str(row[facet]) for row in comparison.prompts if row.get(facet) is not None})


def means(answers: Answers, i: int) -> list[float]:
    """The mean of each reward over all samples of a prompt, whether they are on the page or not."""
    return [round(sum(scores[i]) / len(scores[i]), 4) for scores in answers.scores.values()]


def turns(prompt: Prompt) -> list[tuple[str, str]]:
    """Role and content of each message; a string prompt is one without a role."""
    return [("", prompt)] if isinstance(prompt, str) else [(turn["role"], turn["content"]) for turn in prompt]


def room(comparison: Comparison) -> tuple[int, int | None]:
    """How many samples of a prompt the page has room for, and to how many characters each is cut; None: to none."""
    samples = comparison.stage.samples
    sizes = [
        sum(len(texts[j]) for answers in comparison.answers.values() for texts in answers.texts) for j in range(samples)
    ]
    fit = next((n for n in range(samples, 0, -1) if sum(sizes[:n]) <= BUDGET), 0)
    if fit:
        return fit, None
    return 1, max(SHORTEST, BUDGET // (len(comparison.answers) * len(comparison.prompts)))


def responses(comparison: Comparison, name: str, i: int, samples: int, most: int | None) -> list[dict[str, Any]]:
    """A column's samples to prompt i: pieces, tokens, whether it ended, scores, and how much of it is cut off."""
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
