"""The story of a comparison: the best stage and how sure that is, three numbers per stage, changes, losses, one prompt.

All of it is derived from one judge, `main_judge`. A stage is compared with its parent, ``comparison.previous``.
"""

from typing import NamedTuple

import numpy as np

from rlhf.data.render import question
from rlhf.evaluation.comparison.comparison import Comparison, interval
from rlhf.evaluation.reporting.tables import titled
from rlhf.evaluation.responses.answers import Answers
from rlhf.evaluation.statistics.metrics import Estimate, estimate, normalized, win_rate, wins

FACETS = {"task": "task", "held_out": "novelty of the prompt", "format": "requested form", "source": "source"}
WORST = 3  # losses of a stage that are shown
MOST_KINDS = 40  # values of a facet; a split by more, such as one per prompt, is useless


class Headline(NamedTuple):
    """One of a stage's main numbers: ``words``, ``value`` and ``bounds``; ``share`` if it lies between 0 and 1."""

    words: str
    value: str
    bounds: str
    share: Estimate | None


class Loss(NamedTuple):
    """A prompt on which a stage is worse than its parent, by ``gap``; the responses are the `middle` ones."""

    prompt: str
    gap: float
    ours: str
    theirs: str


def judges(comparison: Comparison) -> list[str]:
    """Return the names by which responses are compared: the rewards, and ``judge`` if one was asked."""
    asked = any(answers.preferences for answers in comparison.answers.values())
    return [*comparison.answers[comparison.stage.reference].scores, *(["judge"] if asked else [])]


def main_judge(comparison: Comparison) -> str:
    """Return the judge that models were least trained on: the gold reward, the judge, the reward model; or ""."""
    found = judges(comparison)
    return next((name for name in ("gold", "judge", *found) if name in found), "")


def better(name: str, share: Estimate) -> str:
    """Return a win rate in words: "better than SFT in 73 of 100 comparisons, between 69 and 77"."""
    mean, low, high = (round(100 * value) for value in share)
    return f"better than {titled(name)} in {mean} of 100 comparisons, between {low} and {high}"


def verdict(comparison: Comparison) -> list[str]:
    """Return in one or two sentences which stage responds best, and how sure that is; empty for a single stage."""
    judge, reference = main_judge(comparison), comparison.stage.reference
    rates = {name: interval(row, f"win_rate/{judge}") for name, row in comparison.metrics.items()}
    found = sorted(((rate, name) for name, rate in rates.items() if rate is not None), key=lambda one: -one[0].mean)
    if not found:
        return []
    rate, best = found[0]
    if rate.high < 0.5:
        return [f"{titled(reference)} responds best: the next, {titled(best)}, is {better(reference, rate)}."]
    if rate.low <= 0.5:
        return [f"No stage is surely better than {titled(reference)}: {titled(best)} is {better(reference, rate)}."]
    said = [f"{titled(best)} responds best: {better(reference, rate)}."]
    if len(found) > 1 and found[1][0].mean > 0.5 and judge in comparison.answers[best].scores:
        second = found[1][1]
        ours, theirs = (comparison.answers[name].scores[judge] for name in (best, second))
        rate = win_rate(ours, theirs, comparison.stage.bootstrap, comparison.seed)
        surely = "is" if round(100 * rate.low) > 50 else "is not surely better than the next: it is"
        said.append(f"It {surely} {better(second, rate)}.")
    return said


def main_metrics(comparison: Comparison) -> list[str]:
    """Return the metrics of the headlines: the win rate, a measure of quality, and the distance from the reference."""
    judge = main_judge(comparison)
    known = {key for row in comparison.metrics.values() for key in row}
    quality = next((key for key in ("correct", "instructions/prompts", judge, "reward") if key in known), "")
    return [key for key in (f"win_rate/{judge}", quality, "kl") if key in known]


def headlines(comparison: Comparison, name: str) -> list[Headline]:
    """Return a stage's main numbers. The reference has its win rate over its parent; a length replaces a missing KL."""
    row, reference = comparison.metrics[name], titled(comparison.stage.reference)
    judge, parent = main_judge(comparison), titled(str(comparison.previous.get(name)))
    words = {
        f"win_rate/{judge}": f"better than {reference}",
        f"win_rate_previous/{judge}": f"better than {parent}",
        "correct": "correct",
        "instructions/prompts": "follow every instruction",
        "gold": "gold reward",
        "reward": "reward model's score",
        "kl": f"KL to {reference} (nats)",
        "length": "tokens per response",
    }
    found: list[Headline] = []
    for key, instead in zip(main_metrics(comparison), (f"win_rate_previous/{judge}", "", "length"), strict=False):
        used = key if key in row else instead
        if (value := interval(row, used)) is None:
            continue
        if used in ("gold", "reward", "kl", "length"):
            mean, low, high = (f"{number:.2f}" for number in value)
            found.append(Headline(words[used], mean, f"between {low} and {high}", None))
        else:
            mean, low, high = (f"{100 * number:.0f}" for number in value)
            found.append(Headline(words[used], f"{mean} of 100", f"between {low} and {high}", value))
    return found


def preferences(comparison: Comparison, name: str, judge: str) -> list[list[float]]:
    """Return by prompt how strongly a stage's responses are preferred to its parent's, in [0, 1]; empty if unknown."""
    own, parent = comparison.answers[name], comparison.answers.get(comparison.previous.get(name) or "")
    if parent is None:
        return [[] for _ in comparison.prompts]
    if judge in own.scores:
        return [wins(a, b) for a, b in zip(own.scores[judge], parent.scores[judge], strict=True)]
    given = own.preferences.get(parent.name, [[] for _ in comparison.prompts])
    return [[value for value in of if value is not None] for of in given]


def gaps(comparison: Comparison, name: str, judge: str) -> list[float | None]:
    """Return by prompt a stage's mean score less its parent's; by a judge, its mean preference less ½."""
    own, parent = comparison.answers[name], comparison.answers.get(comparison.previous.get(name) or "")
    if parent is not None and judge in own.scores:
        pairs = zip(own.scores[judge], parent.scores[judge], strict=True)
        return [round(float(np.mean(a) - np.mean(b)), 4) for a, b in pairs]
    given = preferences(comparison, name, judge)
    return [round(float(np.mean(values)) - 0.5, 4) if values else None for values in given]


def stages(comparison: Comparison) -> list[str]:
    """Return the stages that have a parent among the columns."""
    return [name for name in comparison.metrics if comparison.previous.get(name) in comparison.answers]


def judged(comparison: Comparison) -> list[str]:
    """Return the stages that can be compared with their parent: those of `stages`, if there is a judge."""
    return stages(comparison) if main_judge(comparison) else []


def kinds(comparison: Comparison, facet: str) -> list[str]:
    """Return the values of a facet of the prompts; empty if there is only one, or too many."""
    found = sorted({str(row[facet]) for row in comparison.prompts if row.get(facet) is not None})
    return found if 1 < len(found) <= MOST_KINDS else []


def changes(comparison: Comparison, facet: str) -> dict[str, dict[str, Estimate]]:
    """Return kind of prompt -> stage -> the share of comparisons with its parent that it wins on those prompts."""
    judge, found = main_judge(comparison), {}
    given = {name: preferences(comparison, name, judge) for name in judged(comparison)}
    for kind in kinds(comparison, facet) if given else ():
        chosen = [i for i, row in enumerate(comparison.prompts) if str(row.get(facet)) == kind]
        groups = {name: [values[i] for i in chosen if values[i]] for name, values in given.items()}
        found[kind] = {
            name: estimate(of, comparison.stage.bootstrap, comparison.seed) for name, of in groups.items() if of
        }
    return found


def losses(comparison: Comparison, name: str) -> list[Loss]:
    """Return the prompts on which a stage is worse than its parent, the largest losses first."""
    judge = main_judge(comparison)
    both = [comparison.answers[name], comparison.answers[str(comparison.previous[name])]]
    lost = [(gap, i) for i, gap in enumerate(gaps(comparison, name, judge)) if gap is not None and gap < 0]
    return [
        Loss(
            question(comparison.prompts[i]["prompt"]), gap, *(one.texts[i][middle(one, judge, i)] for one in both)
        )
        for gap, i in sorted(lost)
    ]  # fmt: skip


def middle(answers: Answers, judge: str, i: int) -> int:
    """Return the sample to prompt i with the middle score, the lower of two; the first sample without scores."""
    if judge not in answers.scores:
        return 0
    scores = answers.scores[judge][i]
    return sorted(range(len(scores)), key=lambda j: (scores[j], j))[(len(scores) - 1) // 2]


def typical(comparison: Comparison) -> tuple[int, dict[str, int]]:
    """Return a prompt on which the stages differ as they do on average, and each stage's `middle` sample to it.

    Among the prompts with the most different responses, not counting empty ones, it is the one whose scores are
    closest to the stages' means over all prompts: the least Σ (score - mean)² over the stages. Without scores it is the
    first of them.
    """
    judge, answers = main_judge(comparison), comparison.answers
    means = {name: float(np.mean(of.scores[judge])) for name, of in answers.items() if judge in of.scores}

    def order(i: int) -> tuple[int, float, int]:
        chosen = {name: middle(of, judge, i) for name, of in answers.items()}
        different = {normalized(answers[name].texts[i][j]) for name, j in chosen.items()} - {""}
        distance = sum((answers[name].scores[judge][i][chosen[name]] - mean) ** 2 for name, mean in means.items())
        return -len(different), distance, i

    best = min(range(len(comparison.prompts)), key=order)
    return best, {name: middle(of, judge, best) for name, of in answers.items()}
