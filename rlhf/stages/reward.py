"""Train a reward model on preference pairs: the SFT policy's backbone with a head of one output.

    python -m rlhf stage=reward                                # starts from checkpoints/<name>/sft
    python -m rlhf stage=reward data.path=my.jsonl             # rows of {"prompt": ..., "chosen": ..., "rejected": ...}
    python -m rlhf stage=reward adapter=lora stage.ensemble=3  # three adapters and heads on one base

Stiennon et al. 2020, https://arxiv.org/abs/2009.01325. The trainer is TRL's. The stage also measures the scores of
the starting policy's responses, which PPO normalizes by, and writes the report card.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from datasets import Dataset
from trl import RewardConfig, RewardTrainer

from rlhf.config import RewardLoss, RewardStage, Settings
from rlhf.console import console, show_samples
from rlhf.data.render import Prompt, question
from rlhf.data.tokens import Form
from rlhf.errors import DataError
from rlhf.evaluation.reward_card import report
from rlhf.evaluation.reward_card.card import Card
from rlhf.evaluation.reward_card.grading import Policy, fit_distance, grade, score_statistics
from rlhf.evaluation.reward_card.pairs import check_answers, score_pairs
from rlhf.evaluation.reward_card.probes import PROBES
from rlhf.evaluation.statistics.intervals import share
from rlhf.hardware import ranks
from rlhf.hardware.device import torch_device
from rlhf.modeling import adapters, loading
from rlhf.modeling.architectures import decide
from rlhf.modeling.merging import merge_adapters
from rlhf.preference import residual
from rlhf.preference.balance import balanced
from rlhf.preference.negatives import sampler_of, with_negatives
from rlhf.preference.prefix_sharing import sharing
from rlhf.preference.training import Members, columns, prepare, trainer_class
from rlhf.rewards import AdaptedRewardModel, RewardModel, function
from rlhf.runs.run import Run
from rlhf.training import loop
from rlhf.training.arguments import arguments
from rlhf.training.arguments import build as build_trainer

SPLITS = ("train", "validation", "test")
OURS: dict[str, Any] = {"remove_unused_columns": False}  # TRL does not know the columns of weights and rankings


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Train the reward model or ensemble, grade it, save it and return its metrics."""
    stage = settings.stage_as(RewardStage)
    pairs = loop.read_splits(run, settings, "preferences", SPLITS)
    for dataset in pairs.values():
        check_answers(dataset)
    columns(pairs, stage)  # reports a missing margin before a model is loaded
    # The labels are noisy: even the reward that generated them does not predict all of them.
    ceiling: Any = None
    if settings.data.ceiling is not None:
        measure: Any = function(settings.data.ceiling)  # of rows, unlike a reward
        ceiling = measure(pairs["test"])

    args: Any = arguments(RewardConfig, settings, run, **OURS)
    architecture, attention = loading.config(run["policy"], settings.model), settings.model.attention
    shared = decide(stage.shared_prefix, architecture, attention, args.max_length, run.stage)
    tokenizer = loading.load_tokenizer(run["policy"], settings.model)
    loop.settle(run, settings, tokenizer, pairs["train"]["prompt"])
    run.record_tokenizer(tokenizer)
    learned = dict(pairs) | {"train": training_pairs(settings, run, pairs["train"])}
    prepared = prepare(learned, stage, tokenizer)
    if stage.loss is not RewardLoss.plackett_luce:  # its rankings are token ids already
        extra = [name for name in prepared["train"].column_names if name in ("margin", "weight", "style")]
        prepared = loop.tokenized(run, settings, prepared, Form.sequences, tokenizer, args, extra)
    members = Members(run, settings)
    found, model = train_members(settings, run, members, prepared, tokenizer, shared)
    scoring = {"max_length": args.max_length, "batch_size": args.per_device_eval_batch_size}
    scorers: list[RewardModel]
    if stage.ensemble == 1:
        scorers = [RewardModel(model, tokenizer, **scoring)]
    else:
        folders = [members.folder(number) / "model" for number in range(stage.ensemble)]
        ensemble = loading.load_members(run["policy"], folders, settings.model, tokenizer)
        ensemble = ensemble.to(torch_device(settings.hardware))
        scorers = [AdaptedRewardModel(ensemble, str(number), tokenizer, **scoring) for number in range(stage.ensemble)]

    policy = loading.load_policy(run["policy"], settings.model, tokenizer).to(torch_device(settings.hardware))
    judged = Policy(run["policy"].path, policy, tokenizer)
    card = grade(str(run.directory), scorers, pairs, judged, stage, settings.seed)
    measured = score_statistics(scorers, judged, pairs["train"]["prompt"], stage, settings.seed)
    card.statistics = measured[0]
    if known := [PROBES[kind] for kind in stage.negatives or () if kind in PROBES]:
        card.notes.append(f"trained on responses like those of a corruption test: {', '.join(known)}")
    tell(card, ceiling, stage.sample_prompts)
    for number, scorer in enumerate(scorers if stage.distance_rows else ()):
        distance = fit_distance(scorer, pairs, stage.distance_rows, settings.seed)
        if ranks.is_main():
            distance.save(members.folder(number))
    if ranks.is_main():
        report.write(card, run.work)
    for number in range(1, stage.ensemble):
        run.record_member(members.folder(number), found[number] | measured[number])
    if stage.average is not None:
        average(settings, run, members, pairs["test"], judged, pairs["train"]["prompt"])
    noise = {} if ceiling is None else {"test/ceiling": ceiling.expected, "test/ceiling_realized": ceiling.realized}
    return found[0] | report.numbers(card) | noise | {"objective": card.accuracy.mean}


def training_pairs(settings: Settings, run: Run, pairs: Dataset) -> Dataset:
    """Return the pairs to train on: balanced in length and with negatives if these are set; record both.

    Raises:
        DataError: no pair is left.
    """
    stage = settings.stage_as(RewardStage)
    if stage.balance_lengths is not None:
        kept = balanced(pairs, stage.balance_lengths, settings.seed)
        run.record_omission("preferences", "train", len(pairs) - len(kept), "left out to balance lengths")
        if not len(kept):
            raise DataError(
                f"stage.balance_lengths={stage.balance_lengths} leaves no pair of data.preferences (train): set a "
                "larger width, or use pairs whose chosen response is sometimes longer and sometimes shorter"
            )
        pairs = kept
    if stage.negatives:
        pairs, counts = with_negatives(pairs, stage.negatives, settings.seed, sampler_of(settings, run))
        run.manifest["data"]["preferences"]["train"]["negatives"] = counts
        added = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        console.print(f"reward: extra pairs with negatives: {added}", highlight=False, markup=False, soft_wrap=True)
    return pairs


def average(
    settings: Settings, run: Run, members: Members, test: Dataset, policy: Policy, prompts: Sequence[Prompt]
) -> None:
    """Write the mean of the members as one adapter, a run in the run, with its accuracy and score statistics."""
    stage, folder = settings.stage_as(RewardStage), members.average / "model"
    assert stage.average is not None
    sources = [members.folder(number) / "model" for number in range(stage.ensemble)]
    lost = None
    if ranks.is_main():
        shares = [1 / stage.ensemble] * stage.ensemble
        lost = merge_adapters(sources, [str(source) for source in sources], shares, stage.average, folder)
        policy.tokenizer.save_pretrained(folder)
    lost = ranks.told(lost)
    model = loading.load_members(run["policy"], [folder], settings.model, policy.tokenizer)
    args = {"max_length": stage.trainer["max_length"], "batch_size": stage.trainer["per_device_eval_batch_size"]}
    scorer = AdaptedRewardModel(model.to(torch_device(settings.hardware)), "0", policy.tokenizer, **args)
    scored = score_pairs(test, scorer)
    accuracy = share(scored.right, scored.prompts)
    [measured] = score_statistics([scorer], policy, prompts, stage, settings.seed)
    told = f"test accuracy {accuracy}, relative error of rank {stage.average} {lost:.2g}"
    console.print(f"reward: mean of the members: {told}", highlight=False, markup=False, soft_wrap=True)
    if ranks.is_main():
        run.record_member(members.average, {"test/accuracy": accuracy.mean, "error": lost} | measured)


def train_members(
    settings: Settings, run: Run, members: Members, prepared: dict[str, Dataset], tokenizer: Any, shared: bool
) -> tuple[list[dict[str, float]], Any]:
    """Train and save each member that is not finished; return the metrics of all, and the last trained model."""
    found: list[dict[str, float]] = []
    model = None
    for number in range(settings.stage_as(RewardStage).ensemble):
        metrics = members.finished(number)
        if metrics is None:
            trainer = build(members.seeded(number), run, prepared, tokenizer, members.part(number), members.head())
            model, before = trainer.model, sum(int(earlier["steps"]) for earlier in found)
            with sharing(model) if shared else nullcontext():
                metrics = loop.train(trainer, run, before=before, title=members.title(number))
            if settings.stage_as(RewardStage).residual:
                trainer.residual.drop(model)
                told = f"{members.title(number)}: {residual.summary(metrics)}"
                console.print(told, highlight=False, markup=False, soft_wrap=True)
            loading.save(model, tokenizer, members.folder(number) / "model", run["policy"])
            members.finish(number, metrics)
        found.append(metrics)
    return found, model


def build(
    settings: Settings,
    run: Run,
    prepared: dict[str, Dataset],
    tokenizer: Any,
    part: str,
    head: AbstractContextManager,
) -> Any:
    """Return the trainer of one member, whose head is drawn within ``head``; record the rows that it leaves out.

    Raises:
        DataError: all pairs of a split are longer than stage.trainer.max_length.
    """
    stage = settings.stage_as(RewardStage)
    args: Any = arguments(RewardConfig, settings, run, part=part, **OURS)
    with head:
        model = loading.load_reward_model(
            run["policy"], settings.model, tokenizer, **adapters.quantization(settings.adapter)
        )
    if stage.residual:
        residual.attach(model, len(stage.residual))
    trainer: Any = build_trainer(
        trainer_class(RewardTrainer, stage, prepared),
        model=model,
        args=args,
        train_dataset=prepared["train"],
        eval_dataset=prepared["validation"],
        processing_class=tokenizer,
        peft_config=adapters.lora(settings.adapter, adapters.TaskType.SEQ_CLS, model),
    )
    for split, kept in {"train": trainer.train_dataset, "validation": trainer.eval_dataset}.items():
        lost = len(prepared[split]) - len(kept)
        limit = f"longer than stage.trainer.max_length={trainer.args.max_length}, left out"
        run.record_omission("preferences", split, lost, "longer than max_length, left out", limit)
        if not len(kept):
            raise DataError(
                f"every pair of data.preferences ({split}) is longer than stage.trainer.max_length="
                f"{args.max_length}: raise it, or use shorter pairs"
            )
    return trainer


def tell(card: Card, ceiling: Any, shown: int) -> None:
    """Print a few held-out pairs with their scores, the accuracy that noisy labels allow, and the report card."""
    pairs = card.pairs
    rows = [
        (
            question(pairs.rows[i]["prompt"]),
            f"{pairs.chosen_scores[i]:+.2f} {pairs.chosen.completions[i]}",
            f"{pairs.rejected_scores[i]:+.2f} {pairs.rejected.completions[i]}",
        )
        for i in range(min(shown, len(pairs.rows)))
    ]
    show_samples("reward: held-out pairs", ("prompt", "chosen", "rejected"), rows)
    if ceiling is not None:
        console.print(
            f"reward: held-out accuracy {card.accuracy.mean:.3f}; the labels' noise allows {ceiling.expected:.3f} in "
            f"expectation, and the gold reward itself predicts {ceiling.realized:.3f} of these labels",
            highlight=False,
        )
    report.show(card)
