"""Optimise the SFT policy directly on preference pairs; the reference is the policy as it was.

    python -m rlhf stage=dpo                             # starts from checkpoints/<name>/sft
    python -m rlhf -m stage=dpo stage.beta=0.1,0.3       # sweep

Rafailov et al. 2023, https://arxiv.org/abs/2305.18290. The loss is TRL's; this file wires it.
"""

from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from rlhf import models, training
from rlhf.config import AdapterKind, Settings
from rlhf.data import check_splits, load
from rlhf.data.tokens import Form
from rlhf.evaluation import held_out
from rlhf.rewards.protocol import called
from rlhf.run import Run


class ReadyDPOTrainer(DPOTrainer):
    """Takes rows that are token ids already. TRL's other trainers do when asked; this one would tokenise them again."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def run(settings: Settings, run: Run) -> dict[str, float]:
    stage = settings.stage
    pairs = {split: load(settings.data, "preferences", split, settings.seed) for split in ("train", "validation")}
    check_splits(settings.data, "preferences", pairs, settings.seed)
    for split, dataset in pairs.items():
        run.record_data("preferences", split, dataset)
    asked = held_out.prompts(settings, run)
    gold = None if settings.data.gold is None else called(settings.data.gold)

    tokenizer = models.load_tokenizer(run["policy"], settings.model)
    args = training.arguments(
        DPOConfig, settings, run, beta=stage.beta, loss_type=stage.loss, label_smoothing=stage.label_smoothing
    )
    ids = training.tokenised(run, settings, pairs, Form.pairs, tokenizer, args)
    loading = models.quantization(settings.adapter)
    policy = models.load_policy(run["policy"], settings.model, tokenizer, **loading)
    # With an adapter the reference is the policy with the adapter switched off; without, a second copy.
    whole = settings.adapter.kind is AdapterKind.none
    reference = models.load_policy(run["policy"], settings.model, tokenizer) if whole else None
    run.record_tokenizer(tokenizer)

    trainer = training.build(
        ReadyDPOTrainer,
        model=policy,
        ref_model=reference,
        args=args,
        train_dataset=ids["train"],
        eval_dataset=ids["validation"],
        processing_class=tokenizer,
        peft_config=models.lora(settings.adapter, models.TaskType.CAUSAL_LM),
    )
    sample = training.Sampler(run, trainer.model, tokenizer, pairs["validation"]["prompt"], settings)
    metrics = training.train(trainer, run, sample, stage.sample_every)
    sample(trainer.state.global_step)
    start = starting_policy(settings, run, trainer, tokenizer) if asked else None
    metrics |= held_out.measure(
        settings, run, asked, trainer.model, start, tokenizer, held_out.scorers(settings, run, gold)
    )
    models.save(trainer.model, tokenizer, run.model, run["policy"])
    return metrics | {"objective": metrics["eval/rewards/accuracies"]}


def starting_policy(settings: Settings, run: Run, trainer: DPOTrainer, tokenizer: Any) -> Any | None:
    """What the policy is measured against; None: itself with its adapter switched off."""
    if settings.adapter.kind is not AdapterKind.none:
        return None
    start = trainer.ref_model or models.load_policy(run["policy"], settings.model, tokenizer)
    return start.to(trainer.model.device)
