"""Optimize the SFT policy directly on preference pairs (DPO). The reference is the policy before training.

    python -m rlhf stage=dpo                             # starts from checkpoints/<name>/sft
    python -m rlhf -m stage=dpo stage.beta=0.1,0.3       # sweep

Rafailov et al. 2023, https://arxiv.org/abs/2305.18290. Trainer and losses are TRL's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from rlhf.config import AdapterKind, DPOStage, Settings
from rlhf.config.stages import OWN_LOSSES
from rlhf.data.tokens import HEARD, Form
from rlhf.evaluation.responses import eval_set
from rlhf.hardware import ranks
from rlhf.modeling import adapters, loading
from rlhf.modeling.architectures import decide
from rlhf.preference import reference
from rlhf.preference.head import FIELDS
from rlhf.preference.losses import orpo, simpo, smoothed
from rlhf.preference.prefix_sharing import sharing
from rlhf.runs.run import Run
from rlhf.training import loop
from rlhf.training.arguments import arguments, build


class Attributed:
    """TRL's collator for pairs that differ before their last turn: only the assistant's turns of a completion count."""

    def __init__(self, collator: Any):
        self.collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch, limit = self.collator(examples), self.collator.max_length
        sides = [(example, side) for side in ("chosen", "rejected") for example in examples]
        for row, (example, side) in enumerate(sides):
            start, length = len(example["prompt_ids"]), len(example["prompt_ids"]) + len(example[f"{side}_ids"])
            if limit is not None and self.collator.truncation_mode == "keep_end":
                start -= max(length - limit, 0)
            heard = example[f"{side}_heard"]
            for begin, end in zip(heard[::2], heard[1::2], strict=True):
                batch["completion_mask"][row, max(start + begin, 0) : max(start + end, 0)] = 0
        return batch


Loss = Callable[[Tensor, Tensor], Tensor]  # of pairs, from mean log-probabilities per token: (B,), (B,) -> (B,)


class ReadyDPOTrainer(DPOTrainer):
    """A DPOTrainer for rows of token ids that reads the reference's log-probabilities from our cache.

    TRL's trainer would tokenize the rows again. The key of its cache contains an adapter's initial weights, which
    differ between the jobs of a sweep, and omits other inputs that determine the numbers. ``own`` are losses that TRL's
    trainer lacks, with their weights. If all losses are ``reference_free``, no reference is built, and the metrics of
    rewards are those of beta times the mean log-probability per token.
    """

    args: DPOConfig
    _signature_columns: list[str]
    _precompute_model_hash: str

    def __init__(
        self,
        *,
        reference_kept: reference.Kept | None,
        shared: bool,
        own: Sequence[tuple[Loss, float]] = (),
        reference_free: bool = False,
        **parts: Any,
    ):
        self.reference_kept: Any
        self.reference_kept, self.shared = reference_kept, shared
        self.own, self.reference_free = own, reference_free
        if set(HEARD) <= set(parts["train_dataset"].column_names):  # before TRL computes the reference
            args, padding = parts["args"], parts["processing_class"].pad_token_id
            limits = {"max_length": args.max_length, "truncation_mode": args.truncation_mode}
            parts["data_collator"] = Attributed(DataCollatorForPreference(pad_token_id=padding, **limits))
        super().__init__(**parts)

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = [*dict.fromkeys([*self._signature_columns, *HEARD])]

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        if self.reference_free:
            return dataset

        def compute() -> Iterator[tuple[Tensor, Tensor]]:
            with self.accelerator.autocast(), self.sharing():
                for start in range(ranks.rank() * batch_size, len(dataset), ranks.size() * batch_size):
                    rows = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
                    batch = {key: value.to(self.args.device) for key, value in self.data_collator(rows).items()}
                    chosen, rejected = self.compute_ref_log_probs(self.ref_model or self.model, batch)
                    yield chosen.cpu(), rejected.cpu()

        return reference.with_log_probs(
            dataset, self.reference_kept, name, batch_size, self._precompute_model_hash, compute
        )

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        if not (self.own or self.reference_free):
            return super()._compute_loss(model, inputs, return_outputs)
        made: list[Any] = []

        def noted(**given: Any) -> Any:
            made.append(model(**given))
            return made[-1]

        if self.reference_free:
            zeros = torch.zeros(len(inputs["input_ids"]) // 2, device=inputs["input_ids"].device)
            inputs = {**inputs, "ref_chosen_logps": zeros, "ref_rejected_logps": zeros}
        loss, outputs = super()._compute_loss(noted, inputs, False), made[0]
        mask = inputs["completion_mask"][:, 1:]
        # A prompt-learning adapter prepends virtual tokens.
        means = outputs.log_probs[:, -mask.shape[1] :].sum(1) / mask.sum(1).clamp(min=1)
        chosen, rejected = means.chunk(2)
        loss = loss + sum(weight * own(chosen, rejected).mean() for own, weight in self.own)
        if self.reference_free:
            self._measure_rewards(*(self.beta * means.detach()).chunk(2))
        return (loss, outputs) if return_outputs else loss

    def _measure_rewards(self, chosen: Tensor, rejected: Tensor) -> None:
        """Replace TRL's metrics of the current batch by those of rewards (B,) of chosen and rejected responses."""
        margins = chosen - rejected
        found = {"chosen": chosen, "rejected": rejected, "margins": margins, "accuracies": (margins > 0).float()}
        model: Any = self.model
        metrics = self._metrics["train" if model.training else "eval"]
        for name, values in found.items():
            metrics[f"rewards/{name}"][-1] = self.accelerator.gather(values).mean().item()

    def sharing(self) -> AbstractContextManager[None]:
        """Return a context in which policy and reference encode shared prefixes once, if ``shared``."""
        weighting = ("log_sum_sq_probs",) if self.args.use_weighting else ()
        models = [self.accelerator.unwrap_model(model) for model in (self.model, self.ref_model) if model is not None]
        return sharing(*models, fields=FIELDS + weighting) if self.shared else nullcontext()


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Train with DPO, evaluate on held-out pairs and prompts, save the policy and return its metrics."""
    settings = reference.beside_shards(settings, ranks.strategy_of(settings.hardware), told=True)
    stage = settings.stage_as(DPOStage)
    pairs = loop.read_splits(run, settings, "preferences")
    asked, gold = eval_set.asked(settings, run)

    tokenizer = loading.load_tokenizer(run["policy"], settings.model)
    loop.settle(run, settings, tokenizer, pairs["train"]["prompt"])
    args = dpo_arguments(settings, run)
    architecture = loading.config(run["policy"], settings.model)
    shared = decide(stage.shared_prefix, architecture, settings.model.attention, args.max_length, run.stage)
    ids = loop.tokenized(run, settings, pairs, Form.pairs, tokenizer, args)
    policy = loading.load_policy(run["policy"], settings.model, tokenizer, **adapters.quantization(settings.adapter))
    # With an adapter, the reference is the policy with the adapter switched off. Without one, it is a second copy,
    # unless its log-probabilities are computed before training. Another reference is one in any case.
    origin = run.parents.get("reference", run["policy"])
    kept = stage.cache_reference and not stage.reference_free
    whole = settings.adapter.kind is AdapterKind.none
    second = stage.reference is not None or (whole and not (stage.cache_reference or stage.reference_free))
    options = adapters.quantization(settings.adapter)
    run.record_tokenizer(tokenizer)
    loop.show_ends(run, policy, tokenizer)

    trainer: Any = build(
        ReadyDPOTrainer,
        model=policy,
        ref_model=loading.load_policy(origin, settings.model, tokenizer, **options) if second else None,
        args=args,
        train_dataset=ids["train"],
        eval_dataset=ids["validation"],
        processing_class=tokenizer,
        peft_config=adapters.lora(settings.adapter, adapters.TaskType.CAUSAL_LM, policy),
        reference_kept=reference.kept(settings, origin, args, shared) if kept else None,
        shared=shared,
        own=own_losses(stage),
        reference_free=stage.reference_free,
    )
    if stage.cache_reference:
        trainer.ref_model = None  # its log-probabilities are columns of the rows now
    sample = loop.Sampler(run, trainer.model, tokenizer, pairs["validation"]["prompt"], settings)
    with trainer.sharing():
        metrics = loop.train(trainer, run, sample, stage.sample_every)
    if not stage.reference_free:
        moved = max(abs(metrics[f"eval/rewards/{one}"]) for one in ("chosen", "rejected", "margins")) / stage.beta
        loop.tell_unmoved(run.stage, moved, "stage.trainer.learning_rate", args.learning_rate)
    sample(trainer.state.global_step)
    metrics |= eval_set.measure_trained(settings, run, trainer, tokenizer, asked, gold)
    loading.save(trainer.model, tokenizer, run.model, run["policy"])
    return metrics | {"objective": metrics["eval/rewards/accuracies"]}


def dpo_arguments(settings: Settings, run: Run) -> Any:
    """Return TRL's arguments, whose losses and weights apply the label smoothing."""
    stage = settings.stage_as(DPOStage)
    others = {key: value for key, value in stage.trainer.items() if key != "loss_weights"}
    named = [(name, weight) for name, weight in weighted(stage) if name not in OWN_LOSSES]
    losses, weights = smoothed(
        [name for name, _ in named],
        None if stage.trainer.get("loss_weights") is None else [weight for _, weight in named],
        stage.label_smoothing,
    )
    return arguments(
        DPOConfig,
        replace(settings, stage=replace(stage, trainer=others)),
        run,
        beta=stage.beta,
        loss_type=losses,
        loss_weights=weights,
        label_smoothing=stage.label_smoothing,
        # Without a reference this only avoids that TRL loads one.
        precompute_ref_log_probs=stage.cache_reference or stage.reference_free,
    )


def weighted(stage: DPOStage) -> list[tuple[str, float]]:
    """Return the losses of ``stage.loss`` with their weights, 1 by default."""
    weights = stage.trainer.get("loss_weights") or [1.0] * len(stage.loss)
    return list(zip(stage.loss, weights, strict=True))


def own_losses(stage: DPOStage) -> list[tuple[Loss, float]]:
    """Return the losses that TRL's trainer lacks, with their weights."""
    found: dict[str, Loss] = {
        "simpo": partial(simpo, beta=stage.beta, ratio=stage.gamma_beta_ratio or 0.0),
        "orpo": partial(orpo, weight=stage.beta),
    }
    return [(found[name], weight) for name, weight in weighted(stage) if name in found]
