"""Write the report card of any reward model: accuracy, shortcuts such as length, and calibration.

    python -m rlhf stage=evaluate_reward                                                   # this chain's reward model
    python -m rlhf stage=evaluate_reward stage.reward=org/model data=local data.path=my_pairs.jsonl data.holdout=1
    python -m rlhf stage=evaluate_reward judge=endpoint judge.model=name judge.url=... stage.rubric=helpful  # a judge
    python -m rlhf stage=evaluate_reward benchmark=rewardbench  # a public benchmark instead of data=

stage=reward writes the same card for the model that it trains. The model is compared with trivial baselines: the longer
response, a bag of words, and the policy's log-probability if stage.policy is set.
"""

import math
from contextlib import ExitStack, suppress
from typing import Any

from rlhf.config import EvaluateRewardStage, Settings
from rlhf.console import console, plural
from rlhf.data import load
from rlhf.data.reading import NoRowsError
from rlhf.errors import LineageError, TrainingError
from rlhf.evaluation.benchmarks import numbers, released, scoring
from rlhf.evaluation.judges import rubric
from rlhf.evaluation.reward_card import judged, report
from rlhf.evaluation.reward_card.grading import Policy, grade, score_statistics
from rlhf.evaluation.reward_card.judged import agree
from rlhf.evaluation.reward_card.pairs import check_answers
from rlhf.hardware.device import torch_device
from rlhf.modeling import loading
from rlhf.modeling.seeding import permutation
from rlhf.rewards import Ensemble, RewardModel
from rlhf.rewards.spending import Spending
from rlhf.runs.parents import Parent
from rlhf.runs.run import Run


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Grade the reward model on held-out pairs, write its report card and return its numbers."""
    stage = settings.stage_as(EvaluateRewardStage)
    if stage.benchmark is not None:
        return evaluate_benchmark(settings, run)
    if stage.rubric is not None:
        return evaluate_judge(settings, run)
    pairs = {split: load(settings.data, "preferences", split, settings.seed) for split in ("validation", "test")}
    with suppress(NoRowsError):  # the whole file is held out
        pairs = {"train": load(settings.data, "preferences", "train", settings.seed)} | pairs
    for split, dataset in pairs.items():
        run.record_data("preferences", split, dataset)
        check_answers(dataset)
    scorer = reward_model(run["reward"], settings)
    run.record_tokenizer(scorer.tokenizer)
    policy = load_policy(run.parents.get("policy"), settings)

    card = grade(stage.reward, [scorer], pairs, policy, stage, settings.seed)
    if policy is not None:
        prompts = pairs.get("train", pairs["test"])["prompt"]
        [card.statistics] = score_statistics([scorer], policy, prompts, stage, settings.seed)
    report.write(card, run.work)
    judged = plural(len(pairs["test"]), "pair")
    console.print(f"evaluate_reward: {stage.reward} on {judged}", markup=False, soft_wrap=True)
    report.show(card)
    return report.numbers(card) | {"objective": card.accuracy.mean}


def evaluate_judge(settings: Settings, run: Run) -> dict[str, float]:
    """Measure the agreement of ``judge`` with the preferences of the test pairs, and write its report.

    Raises:
        TrainingError: the judge has no verdict on any pair, or on too few of them.
    """
    stage, judge = settings.stage_as(EvaluateRewardStage), settings.judge
    spending = Spending(judge)
    pairs = load(settings.data, "preferences", "test", settings.seed)
    run.record_data("preferences", "test", pairs)
    check_answers(pairs)
    chosen = permutation(len(pairs), settings.seed, "judged")[: judge.limit].sort().values
    rows = list(pairs.select(chosen.tolist()))
    with rubric.evaluated(settings, run, spending) as scorer:
        found, by = agree(rows, scorer.prefer, settings.seed)
    if found is None:
        raise TrainingError(
            f"judge.model={judge.model} has no verdict on any of {len(rows)} pairs: set another model or stage.rubric"
        )
    judged.write(f"{judge.model} ({stage.rubric})", found, by, spending.report(), run.work)
    console.print(f"evaluate_reward: {judge.model}: {found}", highlight=False, markup=False, soft_wrap=True)
    accuracy = found.right + found.ties / 2
    return found.metrics("test/") | spending.report() | {"test/accuracy": accuracy, "objective": accuracy}


def evaluate_benchmark(settings: Settings, run: Run) -> dict[str, float]:
    """Score the items of ``stage.benchmark`` with the reward models or the judge, write and return its numbers.

    Raises:
        DataError: the benchmark cannot be read, or ``stage.rubric`` compares pairs and it has longer lists.
    """
    stage = settings.stage_as(EvaluateRewardStage)
    items = released.load(stage)
    run.manifest["data"]["benchmark"] = {numbers.title(stage): {"rows": len(items)}}
    run.write()
    spending = Spending(settings.judge)
    with ExitStack() as stack:
        if stage.rubric is None:
            name = " + ".join([stage.reward, *stage.members])
            models = [reward_model(run[role], settings) for role in run.parents]
            run.record_tokenizer(models[0].tokenizer)
            score = scoring.by_reward(models[0] if len(models) == 1 else Ensemble(models, deviations=0.0))
        else:
            name = f"{settings.judge.model} ({stage.rubric})"
            judge = stack.enter_context(rubric.evaluated(settings, run, spending))
            score = scoring.by_preference(judge.prefer) if judge.reads else scoring.by_reward(judge.lowest)
            items = released.drawn(items, settings.judge.limit, settings.seed)
        run.scratch.mkdir(exist_ok=True)
        scores = scoring.scored(items, score, run.scratch / "scores.json")
    found = numbers.measure(stage, items, scores, settings.seed)
    numbers.write(name, stage, found, items, scores, run.work)
    numbers.show(name, stage, found)
    return numbers.metrics(found) | (spending.report() if stage.rubric else {})


def reward_model(parent: Parent, settings: Settings) -> RewardModel:
    """Load the reward model with its tokenizer and its length limit."""
    stage = settings.stage_as(EvaluateRewardStage)
    tokenizer = loading.load_tokenizer(parent, settings.model)
    model = loading.load_reward_model(parent, settings.model, tokenizer, new_head="refused")
    longest: Any = stage.max_length
    if longest is None and parent.manifest is not None:
        trainer = parent.manifest["settings"]["stage"].get("trainer")
        longest = trainer.get("max_length") if isinstance(trainer, dict) else None
        if not isinstance(longest, int | None):
            raise LineageError(f"{parent.path}/run.json has no usable stage.trainer.max_length: set stage.max_length")
    if longest is None:
        # RoBERTa's config counts two positions more than it can read; its tokenizer has the right number.
        longest = min(getattr(model.config, "max_position_embeddings", math.inf), tokenizer.model_max_length)
    model = model.to(torch_device(settings.hardware))
    return RewardModel(model, tokenizer, max_length=longest, batch_size=stage.batch_size)


def load_policy(parent: Parent | None, settings: Settings) -> Policy | None:
    """Load the policy with its own tokenizer, which may differ from the reward model's."""
    if parent is None:
        return None
    tokenizer = loading.load_tokenizer(parent, settings.model)
    model = loading.load_policy(parent, settings.model, tokenizer).to(torch_device(settings.hardware))
    return Policy(parent.path, model, tokenizer)
