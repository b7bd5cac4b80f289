"""From answers and scores to one table: a row of metrics for each model, with intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlhf.config import CompareStage
from rlhf.data.render import Prompt
from rlhf.evaluation.answers import Answers, by_prompt
from rlhf.evaluation.metrics import (
    Estimate,
    agreement,
    agreement_between,
    bits_per_byte,
    distinct,
    estimate,
    perplexity,
    win_rate,
)
from rlhf.rewards import RewardFunction, checked

Row = Mapping[str, Any]  # a prompt with what is known about it: task, format, held_out, group
Judge = Callable[[Prompt, str], Any]  # a completion's named checks: a dataclass whose bool fields are counted
Mean = Callable[[Sequence[Sequence[float]]], Estimate]

# By which column of the prompts a metric is also told apart: what is asked for, in which form, what of it is new.
SPLITS = {"gold": ("task", "held_out"), "correct": ("task", "held_out"), "format_followed": ("format",)}


@dataclass
class Comparison:
    """``metrics``: model -> name -> a number or an estimate. ``notes`` say what a reader must know to read them."""

    stage: CompareStage
    prompts: list[Row]
    answers: dict[str, Answers]
    metrics: dict[str, dict[str, float | Estimate]]
    notes: list[str]
    seed: int


def score(answers: Answers, name: str, reward: RewardFunction, prompts: Sequence[Prompt]) -> None:
    """Add the scores of ``reward`` to the answers. The prompt is the one that was meant, chat template or not."""
    samples = len(answers.texts[0])
    flat = [text for texts in answers.texts for text in texts]
    scores = checked(reward([prompt for prompt in prompts for _ in range(samples)], flat), flat)
    answers.scores[name] = by_prompt(scores, samples)


def measure(
    answers: Answers, rows: Sequence[Row], reference: Answers, stage: CompareStage, seed: int, judge: Judge | None
) -> dict[str, float | Estimate]:
    """The metrics of one model. Those of the gold reward are there where ``answers`` hold its scores."""

    def mean(groups: Sequence[Sequence[float]]) -> Estimate:
        return estimate(groups, stage.bootstrap, seed)

    found: dict[str, float | Estimate] = {}
    for name in answers.scores:
        found[name] = mean(answers.scores[name])
        if answers is not reference:
            found[f"win_rate/{name}"] = win_rate(answers.scores[name], reference.scores[name], stage.bootstrap, seed)
    if answers.kl is not None:
        found["kl"] = mean(answers.kl)
    found["ends"] = mean(answers.ended)
    found["length"] = mean(answers.lengths)
    flat = [text for texts in answers.texts for text in texts]
    found |= {f"distinct_{n}": distinct(flat, n) for n in (1, 2)}
    if stage.samples > 1:
        found["consistency/resamples"] = mean([[agreement(texts)] for texts in answers.texts])
    if groups := paraphrases(rows):
        found["consistency/paraphrases"] = mean([[across(answers, group)] for group in groups])
    if answers.text_nll is not None:
        found["text/perplexity"] = perplexity(answers.text_nll.nats, answers.text_nll.tokens)
        found["text/bits_per_byte"] = bits_per_byte(answers.text_nll.nats, answers.text_nll.bytes)
    if judge is not None:
        found |= judged(answers, rows, judge, mean)
    if "gold" in answers.scores:
        for column in SPLITS["gold"]:
            found |= split_by(column, "gold", answers.scores["gold"], rows, mean)
    return found


def paraphrases(rows: Sequence[Row]) -> list[list[int]]:
    """Indices of the prompts that ask for the same thing in other words, for each thing asked so more than once."""
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if row.get("group") is not None:
            groups.setdefault(row["group"], []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def across(answers: Answers, group: Sequence[int]) -> float:
    """Agreement between answers to different prompts of a group."""
    pairs = [(i, j) for n, i in enumerate(group) for j in group[n + 1 :]]
    return sum(agreement_between(answers.texts[i], answers.texts[j]) for i, j in pairs) / len(pairs)


def judged(answers: Answers, rows: Sequence[Row], judge: Judge, mean: Mean) -> dict[str, Estimate]:
    """How often each check of the judge holds, with the splits of `SPLITS`."""
    verdicts = [
        [asdict(judge(row["prompt"], text)) for text in texts] for row, texts in zip(rows, answers.texts, strict=True)
    ]
    found = {}
    for check in [name for name, value in verdicts[0][0].items() if isinstance(value, bool)]:
        values = [[float(verdict[check]) for verdict in of_prompt] for of_prompt in verdicts]
        found[check] = mean(values)
        for column in SPLITS.get(check, ()):
            found |= split_by(column, check, values, rows, mean)
    return found


def split_by(
    column: str, name: str, values: Sequence[Sequence[float]], rows: Sequence[Row], mean: Mean
) -> dict[str, Estimate]:
    """``name/column/kind`` for each kind of prompt that the column tells apart."""
    kinds = sorted({row[column] for row in rows if row.get(column) is not None})
    return {
        f"{name}/{column}/{kind}": mean(
            [value for value, row in zip(values, rows, strict=True) if row.get(column) == kind]
        )
        for kind in kinds
    }
