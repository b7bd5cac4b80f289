"""The examples on a comparison's page: prompts with their responses as data of the page's script."""

import json
from typing import Any

from rlhf.data.render import Prompt, question
from rlhf.evaluation.comparison.comparison import Comparison, Row
from rlhf.evaluation.reporting import story
from rlhf.evaluation.reporting.tables import JUDGES, titled
from rlhf.evaluation.reporting.text_diff import pieces

BUDGET = 10_000_000
"""Characters of responses on a page. Above it, the page has fewer samples per prompt, then truncated ones."""
SHORTEST = 1000
"""Characters of a response that are never truncated."""
ESCAPES = {code: f"\\u{code:04x}" for code in (*map(ord, "<>&\u2028\u2029"), *range(0xD800, 0xE000))}


def json_block(value: Any) -> str:
    """Return JSON that is safe inside a script element: no text in it can close the element or open a comment."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(ESCAPES)


def data(comparison: Comparison) -> dict[str, Any]:
    """Return the data of the page's script: prompts, responses in pieces, gaps to the parent, and facets to filter by.

    ``judges`` begin with the main one; ``gaps``: stage -> the gap of the whole prompt by each judge.
    """
    names = list(comparison.metrics)
    samples, most = room(comparison)
    facets = {facet: found for facet in story.FACETS if (found := story.kinds(comparison, facet))}
    judges = sorted(story.judges(comparison), key=lambda judge: judge != story.main_judge(comparison))
    gaps = {name: [story.gaps(comparison, name, judge) for judge in judges] for name in story.stages(comparison)}
    return {
        "models": names,
        "titles": {name: titled(name) for name in names},
        "parents": {name: comparison.previous[name] for name in gaps},
        "rewards": [JUDGES.get(name, name) for name in comparison.answers[comparison.stage.reference].scores],
        "judges": [JUDGES.get(name, name) for name in judges],
        "facets": facets,
        "samples": samples,
        "prompts": [
            {
                "prompt": turns(row["prompt"]),
                "facets": {facet: str(row[facet]) for facet in facets if row.get(facet) is not None},
                "gaps": {name: [values[i] for values in by] for name, by in gaps.items()},
                "responses": {name: responses(comparison, name, i, samples, most) for name in names},
            }
            for i, row in first(comparison)
        ],
    }


def first(comparison: Comparison) -> list[tuple[int, Row]]:
    """Return the prompts with their indices, the stage's questions first."""
    asked = comparison.stage.questions
    return sorted(enumerate(comparison.prompts), key=lambda pair: question(pair[1]["prompt"]) not in asked)


def beside(comparison: Comparison, name: str) -> str | None:
    """Return the column that a column's words are marked against: the reference, unless it was trained from this one.

    None for the reference and its ancestors.
    """
    other: str | None = comparison.stage.reference
    while other is not None and other != name:
        other = comparison.previous.get(other)
    return None if other == name else comparison.stage.reference


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
