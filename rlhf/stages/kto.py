"""Optimize the SFT policy on single responses that were labeled as desirable or undesirable (KTO).

    python -m rlhf stage=kto                               # starts from checkpoints/<name>/sft
    python -m rlhf stage=kto data.path=my_thumbs.jsonl     # rows of {"prompt": ..., "completion": ..., "label": true}

Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306. Thumbs, ratings and pairs are read from data.preferences. The
trainer and the losses are TRL's.
"""

from typing import Any

from trl import KTOConfig

from rlhf.config import AdapterKind, KTOStage, Settings
from rlhf.console import console
from rlhf.data.tokens import Form
from rlhf.hardware import ranks
from rlhf.modeling import adapters, loading
from rlhf.modeling.architectures import decide
from rlhf.preference import kto, reference
from rlhf.runs.run import Run
from rlhf.stages.dpo import held_out, measured
from rlhf.training import loop
from rlhf.training.arguments import arguments, build


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Train with KTO, evaluate on held-out rows and prompts, save the policy and return its metrics."""
    settings = reference.beside_shards(settings, ranks.strategy_of(settings.hardware), told=True)
    stage = settings.stage_as(KTOStage)
    rows = loop.read_splits(run, settings, "thumbs")
    rows["train"], least = kto.labeled(rows["train"], stage.desirable_from)
    rows["validation"], _ = kto.labeled(rows["validation"], least if stage.desirable_from is None else None)
    weights = kto.weights(stage, *kto.counted(rows["train"]))
    tell(run, rows, least, weights)
    asked, gold = held_out(settings, run)

    tokenizer = loading.load_tokenizer(run["policy"], settings.model)
    loop.settle(run, settings, tokenizer, rows["train"]["prompt"])
    args: Any = arguments(
        KTOConfig,
        settings,
        run,
        beta=stage.beta,
        loss_type=stage.loss.value,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
        precompute_ref_log_probs=stage.cache_reference,
    )
    architecture = loading.config(run["policy"], settings.model)
    shared = decide(stage.shared_prefix, architecture, settings.model.attention, args.max_length, run.stage)
    ids = loop.tokenized(run, settings, rows, Form.thumbs, tokenizer, args, ["label"])
    ids = {split: kto.arranged(part, settings.seed, stage.loss is stage.loss.kto) for split, part in ids.items()}
    policy = loading.load_policy(run["policy"], settings.model, tokenizer, **adapters.quantization(settings.adapter))
    second = settings.adapter.kind is AdapterKind.none and not stage.cache_reference
    run.record_tokenizer(tokenizer)
    loop.show_ends(run, policy, tokenizer)

    trainer: Any = build(
        kto.ReadyKTOTrainer,
        model=policy,
        ref_model=loading.load_policy(run["policy"], settings.model, tokenizer) if second else None,
        args=args,
        train_dataset=ids["train"],
        eval_dataset=ids["validation"],
        processing_class=tokenizer,
        peft_config=adapters.lora(settings.adapter, adapters.TaskType.CAUSAL_LM, policy),
        reference_kept=reference.kept(settings, run["policy"], args, shared) if stage.cache_reference else None,
        shared=shared,
    )
    sample = loop.Sampler(run, trainer.model, tokenizer, rows["validation"]["prompt"], settings)
    with trainer.sharing():
        metrics = loop.train(trainer, run, sample, stage.sample_every)
    moved = max(abs(metrics.get(f"eval/rewards/{one}", 0.0)) for one in ("chosen", "rejected")) / stage.beta
    loop.tell_unmoved(run.stage, moved, "stage.trainer.learning_rate", args.learning_rate)
    sample(trainer.state.global_step)
    metrics |= measured(settings, run, trainer, tokenizer, asked, gold)
    loading.save(trainer.model, tokenizer, run.model, run["policy"])
    return metrics | {"objective": metrics["eval/rewards/accuracies"]}


def tell(run: Run, rows: dict[str, Any], least: float | None, weights: tuple[float, float]) -> None:
    """Print the number of rows of each label, the weights of their losses and the ratio of both; record the counts."""
    for split, part in rows.items():
        for name, count in zip(("desirable", "undesirable"), kto.counted(part), strict=True):
            run.record_omission("preferences", split, count, name)
    good, bad = kto.counted(rows["train"])
    ratio = weights[0] * good / (weights[1] * bad)
    fits = "within" if 1 - 1e-9 <= ratio <= 1.5 else "outside"
    line = f"stage.desirable_weight={weights[0]:.4g} and stage.undesirable_weight={weights[1]:.4g}"
    console.print(f"{run.stage}: {line}: ratio {ratio:.3g}, {fits} the paper's 1 to 1.5", highlight=False)
    if least is not None:
        console.print(f"{run.stage}: a rating from {least:.4g} is desirable (stage.desirable_from)", highlight=False)
