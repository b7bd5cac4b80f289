"""Optimize the SFT policy directly on preference pairs (DPO). The reference is the policy before training.

    python -m rlhf stage=dpo                             # starts from checkpoints/<name>/sft
    python -m rlhf -m stage=dpo stage.beta=0.1,0.3       # sweep

Rafailov et al. 2023, https://arxiv.org/abs/2305.18290. Trainer and losses are TRL's.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from datasets import Dataset
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from rlhf.config import AdapterKind, DPOStage, Settings
from rlhf.data.tokens import HEARD, Form
from rlhf.evaluation.responses import eval_set
from rlhf.hardware import ranks
from rlhf.modeling import adapters, loading
from rlhf.preference import reference
from rlhf.preference.architectures import decide
from rlhf.preference.head import FIELDS
from rlhf.preference.losses import smoothed
from rlhf.preference.prefix_sharing import sharing
from rlhf.rewards.columns import Rows, bound, reads_columns
from rlhf.rewards.protocol import function, guarded
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


class ReadyDPOTrainer(DPOTrainer):
    """A DPOTrainer for rows of token ids that reads the reference's log-probabilities from our cache.

    TRL's trainer would tokenize the rows again. The key of its cache contains an adapter's initial weights, which
    differ between the jobs of a sweep, and omits other inputs that determine the numbers.
    """

    args: DPOConfig
    _signature_columns: list[str]
    _precompute_model_hash: str

    def __init__(self, *, reference_kept: reference.Kept | None, shared: bool, **parts: Any):
        self.reference_kept: Any
        self.reference_kept, self.shared = reference_kept, shared
        super().__init__(**parts)
        if set(HEARD) <= set(parts["train_dataset"].column_names):
            self.data_collator = Attributed(self.data_collator)

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = [*dict.fromkeys([*self._signature_columns, *HEARD])]

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
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
    named = settings.data.gold
    gold: Any = None if named is None else function(named)
    reads = gold is not None and reads_columns(gold)
    asked = eval_set.prompts(settings, run, columns=reads)
    if gold is not None:
        rows = Rows(eval_set.held_out(settings, columns=True)) if reads else None
        gold = guarded(bound(gold, "data.gold", rows), f"data.gold={named}")

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
    second = stage.reference is not None or (settings.adapter.kind is AdapterKind.none and not stage.cache_reference)
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
        reference_kept=reference.kept(settings, origin, args, shared) if stage.cache_reference else None,
        shared=shared,
    )
    if stage.cache_reference:
        trainer.ref_model = None  # its log-probabilities are columns of the rows now
    sample = loop.Sampler(run, trainer.model, tokenizer, pairs["validation"]["prompt"], settings)
    with trainer.sharing():
        metrics = loop.train(trainer, run, sample, stage.sample_every)
    moved = max(abs(metrics[f"eval/rewards/{one}"]) for one in ("chosen", "rejected", "margins")) / stage.beta
    loop.tell_unmoved(run.stage, moved, "stage.trainer.learning_rate", args.learning_rate)
    sample(trainer.state.global_step)
    start = starting_policy(settings, run, trainer, tokenizer) if asked else None
    scorers = eval_set.scorers(settings, run, gold)
    metrics |= eval_set.measure(settings, run, asked, trainer.model, start, tokenizer, scorers)
    loading.save(trainer.model, tokenizer, run.model, run["policy"])
    return metrics | {"objective": metrics["eval/rewards/accuracies"]}


def dpo_arguments(settings: Settings, run: Run) -> Any:
    """Return TRL's arguments, whose losses and weights apply the label smoothing."""
    stage = settings.stage_as(DPOStage)
    others = {key: value for key, value in stage.trainer.items() if key != "loss_weights"}
    losses, weights = smoothed(stage.loss, stage.trainer.get("loss_weights"), stage.label_smoothing)
    return arguments(
        DPOConfig,
        replace(settings, stage=replace(stage, trainer=others)),
        run,
        beta=stage.beta,
        loss_type=losses,
        loss_weights=weights,
        label_smoothing=stage.label_smoothing,
        precompute_ref_log_probs=stage.cache_reference,
    )


def starting_policy(settings: Settings, run: Run, trainer: Any, tokenizer: Any) -> Any | None:
    """Return the model that the policy is compared with; None means the policy with its adapter switched off."""
    if settings.adapter.kind is not AdapterKind.none:
        return None
    ours = trainer.ref_model if "reference" not in run.parents else None
    start: Any = ours or loading.load_policy(run["policy"], settings.model, tokenizer)
    return start.to(trainer.model.device)
