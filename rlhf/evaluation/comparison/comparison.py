"""The metrics of a comparison: one row per model, with intervals, from its responses and their scores."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rlhf.config import CompareStage
from rlhf.data.render import Prompt
from rlhf.evaluation.comparison.records import OverSeeds, Record
from rlhf.evaluation.judges import judge as judges
from rlhf.evaluation.judges.votes import Compared, by_judge, by_scores, length_matched
from rlhf.evaluation.responses.answers import Answers
from rlhf.evaluation.statistics.calibration import Calibration, answer_probabilities, calibration
from rlhf.evaluation.statistics.metrics import (
    Estimate,
    agreement,
    agreement_between,
    bits_per_byte,
    distinct,
    estimate,
    estimate_ratio,
    estimate_share,
    perplexity,
    win_rate,
)
from rlhf.rewards import RewardFunction, checked
from rlhf.rewards.instructions import followed
from rlhf.runs.tree import Line

Row = Mapping[str, Any]  # a prompt and its known properties: task, format, held_out, group
Judge = Callable[[Prompt, str], Any]  # returns the checks of a completion: a dataclass whose bool fields are counted
Mean = Callable[[Sequence[Sequence[float]]], Estimate]
Metrics = dict[str, float | Estimate]

# Metric -> columns of the prompts that it is also reported by: the task, the requested form, the novelty.
SPLITS = {"gold": ("task", "held_out"), "correct": ("task", "held_out"), "format_followed": ("format",)}

DOMAIN, TAX = "text/domain", "text/tax"  # bits per byte of a domain, and the difference from the reference

TASK, CHANGE = "lm_eval/task", "lm_eval/change"  # of lm-eval-harness, and the difference from the reference


@dataclass
class Comparison:
    """The content of a report.

    ``metrics``: model -> name -> a number or an estimate. ``notes``: remarks for readers of the metrics.
    ``previous``: model -> the column that it was trained from. ``records``: model, or ``reward``, -> its run.
    ``tree``: the columns below the runs that they were trained from.
    ``paths``: title -> PPO runs for the frontier. ``reliability``: the reward model's calibration on held-out pairs.
    """

    stage: CompareStage
    prompts: list[Row]
    answers: dict[str, Answers]
    metrics: dict[str, Metrics]
    notes: list[str]
    seed: int
    previous: dict[str, str | None] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    tree: list[Line] = field(default_factory=list)
    paths: dict[str, Record] = field(default_factory=dict)
    reliability: Calibration | None = None
    seeds: OverSeeds | None = None


def interval(row: Mapping[str, float | Estimate], key: str) -> Estimate | None:
    """Return a metric that has an interval; None if the model lacks it."""
    value = row.get(key)
    return value if isinstance(value, Estimate) else None


def score(models: Iterable[Answers], name: str, reward: RewardFunction, prompts: Sequence[Prompt]) -> None:
    """Add the scores of ``reward`` to the answers of all models, equal responses to a prompt once.

    Equal responses have equal scores, so that they tie. The reward reads ``prompts`` even if a model was asked in plain
    text.
    """
    models = list(models)
    distinct = {(i, text): None for i in range(len(prompts)) for found in models for text in found.texts[i]}
    texts = [text for _, text in distinct]
    scores = checked(reward([prompts[i] for i, _ in distinct], texts), texts)
    known = dict(zip(distinct, scores, strict=True))
    for found in models:
        found.scores[name] = [[known[i, text] for text in of_prompt] for i, of_prompt in enumerate(found.texts)]


def remembering(judge: Judge) -> Judge:
    """Return ``judge`` with a memory of its verdicts, so that equal responses to a prompt are judged once."""
    verdicts: dict[tuple[str, str], Any] = {}

    def remembered(prompt: Prompt, text: str) -> Any:
        key = json.dumps(prompt), text
        if key not in verdicts:
            verdicts[key] = judge(prompt, text)
        return verdicts[key]

    return remembered


def prefer(
    answers: Answers, against: Answers, judge: judges.Judge, prompts: Sequence[Prompt], limit: int | None = None
) -> None:
    """Add a judge's preferences for the answers over those of another model, for win rates by the judge."""
    answers.preferences[against.name] = by_judge(judge, prompts, answers.texts, against.texts, limit)


def measure(
    answers: Answers,
    rows: Sequence[Row],
    reference: Answers,
    stage: CompareStage,
    seed: int,
    judge: Judge | None,
    previous: Answers | None = None,
) -> Metrics:
    """Return the metrics of one model; those of the gold reward only if ``answers`` hold its scores."""

    def mean(groups: Sequence[Sequence[float]]) -> Estimate:
        return estimate(groups, stage.bootstrap, seed)

    found: Metrics = {name: mean(scores) for name, scores in answers.scores.items()}
    if answers is not reference:
        found |= against(answers, reference, "win_rate", stage, seed)
    if previous is not None:
        found |= against(answers, previous, "win_rate_previous", stage, seed)
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
    found |= by_domain(answers, reference, stage, seed) | by_task(answers, reference, mean)
    if judge is not None:
        found |= judged(answers, rows, judge, mean, seed)
    found |= instructed(answers, rows, stage, seed)
    if "gold" in answers.scores:
        for column in SPLITS["gold"]:
            found |= split_by(column, "gold", answers.scores["gold"], rows, mean)
    return found


def by_domain(answers: Answers, reference: Answers, stage: CompareStage, seed: int) -> Metrics:
    """Return bits per byte of each domain's texts, and the difference from the reference on the same texts."""
    found: Metrics = {}
    for name, texts in answers.domains.items():
        bits = [bits_per_byte(text.nats, 1) for text in texts]
        sizes = [text.bytes for text in texts]
        found[f"{DOMAIN}/{name}"] = estimate_ratio(bits, sizes, stage.bootstrap, seed)
        if answers is not reference:
            more = [one - bits_per_byte(text.nats, 1) for one, text in zip(bits, reference.domains[name], strict=True)]
            found[f"{TAX}/{name}"] = estimate_ratio(more, sizes, stage.bootstrap, seed)
    return found


def by_task(answers: Answers, reference: Answers, mean: Mean) -> Metrics:
    """Return the mean of each metric of lm-eval-harness, and the paired difference from the reference."""
    found: Metrics = {f"{TASK}/{name}": mean([[value] for value in values]) for name, values in answers.tasks.items()}
    if answers is not reference:
        for name in answers.tasks.keys() & reference.tasks.keys():
            pairs = zip(answers.tasks[name], reference.tasks[name], strict=True)
            found[f"{CHANGE}/{name}"] = mean([[ours - theirs] for ours, theirs in pairs])
    return found


def against(answers: Answers, other: Answers, key: str, stage: CompareStage, seed: int) -> Metrics:
    """Return win rates by every score and the judge: ``key/name``, and length-matched ``key/lc/name``."""
    found: Metrics = {}
    for name in answers.scores:
        if name in other.scores:
            found[f"{key}/{name}"] = win_rate(answers.scores[name], other.scores[name], stage.bootstrap, seed)
            compared = by_scores(answers.scores[name], other.scores[name], answers.lengths, other.lengths)
            found |= matched(f"{key}/lc/{name}", compared, stage, seed)
    pairs = zip(answers.preferences.get(other.name, []), answers.lengths, other.lengths, strict=False)
    by_judge = [compared for compared in (Compared.of(*pair) for pair in pairs) if len(compared.preferences)]
    if by_judge:
        found[f"{key}/judge"] = estimate([compared.preferences for compared in by_judge], stage.bootstrap, seed)
        found |= matched(f"{key}/lc/judge", by_judge, stage, seed)
    return found


def matched(key: str, compared: Sequence[Compared], stage: CompareStage, seed: int) -> Metrics:
    """Return the length-matched win rate under ``key``; empty if it would be an extrapolation."""
    found = length_matched(compared, stage.bootstrap, seed)
    return {} if found is None else {key: found}


def paraphrases(rows: Sequence[Row]) -> list[list[int]]:
    """Return the indices of the prompts that are paraphrases of each other, by group; single prompts are left out."""
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if row.get("group") is not None:
            groups.setdefault(row["group"], []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def across(answers: Answers, group: Sequence[int]) -> float:
    """Return the mean agreement between responses to two different prompts of a group."""
    pairs = [(i, j) for n, i in enumerate(group) for j in group[n + 1 :]]
    return sum(agreement_between(answers.texts[i], answers.texts[j]) for i, j in pairs) / len(pairs)


def judged(answers: Answers, rows: Sequence[Row], judge: Judge, mean: Mean, seed: int) -> Metrics:
    """Return the share of responses that pass each check, also by `SPLITS`, and the calibration of the answers."""
    verdicts = [
        [asdict(judge(row["prompt"], text)) for text in texts] for row, texts in zip(rows, answers.texts, strict=True)
    ]
    found: Metrics = {}
    for check in [name for name, value in verdicts[0][0].items() if isinstance(value, bool)]:
        values = [[float(verdict[check]) for verdict in of_prompt] for of_prompt in verdicts]
        found[check] = mean(values)
        if check == "correct" and len(values[0]) > 1:
            found |= answer_calibration(answers, values, seed)
        for column in SPLITS.get(check, ()):
            found |= split_by(column, check, values, rows, mean)
    return found


def answer_calibration(answers: Answers, correct: Sequence[Sequence[float]], seed: int) -> Metrics:
    """Return the ECE of the policy's probability of an answer, by `answer_probabilities`, and its noise floor.

    Empty for a model that is never right: one that responds differently each time would seem to be calibrated.
    """
    right = [value for values in correct for value in values]
    if not any(right):
        return {}
    found = calibration([p for texts in answers.texts for p in answer_probabilities(texts)], right, seed=seed)
    return {"calibration/answers": found.error, "calibration/answers_floor": found.floor}


def instructed(answers: Answers, rows: Sequence[Row], stage: CompareStage, seed: int) -> Metrics:
    """Return the strict accuracy on checkable instructions: by prompt, by instruction, and by kind of instruction."""
    asked = [i for i, row in enumerate(rows) if row.get("instruction_id_list")]
    if not asked:
        return {}
    kinds: dict[str, list[list[float]]] = {}
    whole, single = [], []
    for i in asked:
        verdicts = [followed(rows[i], text) for text in answers.texts[i]]
        whole.append([float(all(verdict)) for verdict in verdicts])
        single.append([float(value) for verdict in verdicts for value in verdict])
        for place, kind in enumerate(rows[i]["instruction_id_list"]):
            kinds.setdefault(kind, []).append([float(verdict[place]) for verdict in verdicts])
    found: Metrics = {
        "instructions/prompts": estimate(whole, stage.bootstrap, seed),
        "instructions/all": estimate_share(single, stage.bootstrap, seed),
    }
    return found | {
        f"instructions/kind/{kind}": estimate_share(kinds[kind], stage.bootstrap, seed) for kind in sorted(kinds)
    }


def split_by(column: str, name: str, values: Sequence[Sequence[float]], rows: Sequence[Row], mean: Mean) -> Metrics:
    """Return ``name/column/kind``, the mean over the prompts whose ``column`` is ``kind``, for each value of it."""
    kinds = sorted({row[column] for row in rows if row.get(column) is not None})
    return {
        f"{name}/{column}/{kind}": mean(
            [value for value, row in zip(values, rows, strict=True) if row.get(column) == kind]
        )
        for kind in kinds
    }
