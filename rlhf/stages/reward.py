"""A reward model: the SFT policy's backbone under a head of one output, trained on preference pairs.

    python -m rlhf stage=reward                                # starts from checkpoints/<name>/sft
    python -m rlhf stage=reward data.path=my.jsonl             # {"prompt": ..., "chosen": ..., "rejected": ...} a line

Stiennon et al. 2020, https://arxiv.org/abs/2009.01325. The trainer is TRL's; this file wires it, measures the scores
of the starting policy's own responses, which PPO needs, and holds the accuracy against the labels' noise.
"""

import statistics

from datasets import Dataset
from trl import RewardConfig, RewardTrainer

from rlhf import models, training
from rlhf.config import Settings
from rlhf.data import check_splits, load
from rlhf.data.render import question
from rlhf.data.tokens import Form
from rlhf.errors import DataError, TrainingError
from rlhf.generate import generate
from rlhf.progress import console, show_samples
from rlhf.rewards import RewardModel, function
from rlhf.run import Run


def run(settings: Settings, run: Run) -> dict[str, float]:
    splits = ("train", "validation", "test")
    pairs = {split: load(settings.data, "preferences", split, settings.seed) for split in splits}
    check_splits(settings.data, "preferences", pairs, settings.seed)
    for split, dataset in pairs.items():
        run.record_data("preferences", split, dataset)
    extra = margins(pairs, settings)
    # The labels are noisy: even the reward that they were drawn from does not predict all of them.
    ceiling = None if settings.data.ceiling is None else function(settings.data.ceiling)(pairs["test"])
    arguments = training.arguments(RewardConfig, settings, run)

    tokenizer = models.load_tokenizer(run["policy"], settings.model)
    trained = {split: pairs[split] for split in ("train", "validation")}
    ids = training.tokenised(run, settings, trained, Form.sequences, tokenizer, arguments, extra)
    model = models.load_reward_model(run["policy"], settings.model, tokenizer, **models.quantization(settings.adapter))
    run.record_tokenizer(tokenizer)

    trainer = training.build(
        RewardTrainer,
        model=model,
        args=arguments,
        train_dataset=ids["train"],
        eval_dataset=ids["validation"],
        processing_class=tokenizer,
        peft_config=models.lora(settings.adapter, models.TaskType.SEQ_CLS),
    )
    longest = trainer.args.max_length
    for split, kept in {"train": trainer.train_dataset, "validation": trainer.eval_dataset}.items():
        run.record_omission("preferences", split, len(pairs[split]) - len(kept), "longer than max_length, left out")
        if not len(kept):
            raise DataError(
                f"every pair of data.preferences ({split}) is longer than stage.trainer.max_length={longest}: "
                "raise it, or give shorter pairs"
            )
    metrics = training.train(trainer, run)
    models.save(trainer.model, tokenizer, run.model, run["policy"])

    scorer = RewardModel(trainer.model, tokenizer, max_length=longest)
    metrics |= held_out(scorer, pairs["test"], settings, ceiling) | score_statistics(
        scorer, pairs["train"], settings, run
    )
    return metrics | {"objective": metrics["test/accuracy"]}


def margins(pairs: dict[str, Dataset], settings: Settings) -> list[str]:
    """The column of the margins, where they are asked for.

    Raises:
        DataError: the pairs have none.
    """
    if not settings.stage.margin:
        return []
    for split in ("train", "validation"):
        if "margin" not in pairs[split].column_names:
            raise DataError(
                f"stage.margin=true, but the {split} pairs of data.preferences have no margin: give every row a "
                '"margin", or leave stage.margin=true out'
            )
    return ["margin"]


def held_out(scorer: RewardModel, pairs, settings: Settings, ceiling) -> dict[str, float]:
    """Accuracy on the test split: the share of pairs whose chosen response scores higher, ties counted half.

    ``ceiling`` has the accuracy that the noise of the labels allows, ``expected`` and ``realised``, or is None.
    """
    chosen = scorer(pairs["prompt"], [question(row) for row in pairs["chosen"]])
    rejected = scorer(pairs["prompt"], [question(row) for row in pairs["rejected"]])
    accuracy = statistics.fmean((c > r) + 0.5 * (c == r) for c, r in zip(chosen, rejected, strict=True))
    shown = range(min(settings.stage.sample_prompts, len(pairs)))
    rows = [
        (
            question(pairs[i]["prompt"]),
            f"{chosen[i]:+.2f} {question(pairs[i]['chosen'])}",
            f"{rejected[i]:+.2f} {question(pairs[i]['rejected'])}",
        )
        for i in shown
    ]
    show_samples("reward: held-out pairs", ("prompt", "chosen", "rejected"), rows)
    found = {"test/accuracy": accuracy}
    if ceiling is not None:
        found |= {"test/ceiling": ceiling.expected, "test/ceiling_realised": ceiling.realised}
        console.print(
            f"reward: held-out accuracy {accuracy:.3f}; the labels' noise allows {ceiling.expected:.3f} in "
            f"expectation, and the gold reward itself predicts {ceiling.realised:.3f} of these labels",
            highlight=False,
        )
    return found


def score_statistics(scorer: RewardModel, pairs, settings: Settings, run: Run) -> dict[str, float]:
    """Mean and standard deviation of the scores of the starting policy's responses; PPO normalises by them."""
    tokenizer = scorer.tokenizer
    policy = models.load_policy(run["policy"], settings.model, tokenizer).to(models.device(settings.hardware))
    prompts = [pairs[i]["prompt"] for i in range(min(settings.stage.statistics_prompts, len(pairs)))]
    responses = generate(
        policy,
        tokenizer,
        prompts,
        max_prompt_length=scorer.max_length,
        max_response_length=settings.stage.sample_length,
        temperature=settings.stage.statistics_temperature,
        seed=settings.seed,
        batch_size=64,
    )
    scores = scorer(prompts, [response.text for response in responses])
    if len(set(scores)) == 1:
        raise TrainingError(
            f"the reward model gives every response of {run['policy'].path} the score {scores[0]}: "
            "raise stage.trainer.learning_rate, or train on more pairs"
        )
    return {"scores/mean": statistics.fmean(scores), "scores/std": statistics.stdev(scores)}
