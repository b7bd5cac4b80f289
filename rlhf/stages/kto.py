"""Optimize the SFT policy on single responses that were labeled as desirable or undesirable (KTO).

    python -m rlhf stage=kto                               # starts from checkpoints/<name>/sft
    python -m rlhf stage=kto data.path=my_thumbs.jsonl     # rows of {"prompt": ..., "completion": ..., "label": true}

Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306. Thumbs, ratings and pairs are read from data.preferences. The
trainer and the losses are TRL's.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import KTOConfig, KTOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from rlhf.config import AdapterKind, KTOStage, Settings
from rlhf.console import console
from rlhf.data.singles import SIDES
from rlhf.data.tokens import Form
from rlhf.evaluation.responses import eval_set
from rlhf.hardware import ranks
from rlhf.modeling import adapters, loading
from rlhf.modeling.architectures import decide
from rlhf.preference import kto, reference
from rlhf.preference.prefix_sharing import sharing
from rlhf.runs.run import Run
from rlhf.training import loop
from rlhf.training.arguments import arguments, build


class ReadyKTOTrainer(KTOTrainer):
    """A KTOTrainer for rows of token ids that reads the reference's log-probabilities from our cache.

    It adds a metric: the share of responses whose implicit reward is on the right side of the reference point. TRL
    estimates that point from each batch; within `fixed_point` it is the mean over several batches, so that held-out
    losses do not depend on the batches.
    """

    args: KTOConfig
    _signature_columns: list[str]
    _precompute_model_hash: str

    def __init__(self, *, reference_kept: reference.Kept | None, shared: bool, **parts: Any):
        self.reference_kept: Any
        self.reference_kept, self.shared = reference_kept, shared
        self.point: float | None = None  # KL in nats per response, if it is fixed
        padding = parts["processing_class"].pad_token_id
        collator = DataCollatorForUnpairedPreference(pad_token_id=padding, max_length=parts["args"].max_length)
        super().__init__(data_collator=kto.Collator(collator), **parts)
        self.precompute_ref_logps = True  # `_compute_loss` adds those that are not cached to the batch

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        heard = ["completion_heard", f"{kto.OTHER}completion_heard"]
        self._signature_columns = [*dict.fromkeys([*self._signature_columns, *heard])]

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        def compute() -> Iterator[tuple[Tensor, ...]]:
            with self.accelerator.autocast(), self.sharing():
                for start in range(ranks.rank() * batch_size, len(dataset), ranks.size() * batch_size):
                    rows = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
                    batch = {key: value.to(self.args.device) for key, value in self.data_collator(rows).items()}
                    found = self.compute_ref_log_probs(self.ref_model or self.model, batch)
                    yield tuple(values.cpu() for values in found if values is not None)

        columns = ("ref_logps", "ref_KL_logps")[: 1 + self.calculate_KL]
        weights = self._precompute_model_hash
        return reference.with_log_probs(dataset, self.reference_kept, name, batch_size, weights, compute, columns)

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Return the reference's log-probabilities (B,) of the responses and of the mismatched ones."""
        compute = super().compute_ref_log_probs
        return kto.log_probs_of_both(self, compute, model, inputs) if self.shared else compute(model, inputs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        made: list[Any] = []

        def noted(**given: Any) -> Any:
            made.append(model(**given))
            return made[-1]

        inputs = self._with_reference(inputs)
        loss = super()._compute_loss(noted, inputs, False)
        ratios = made[-1].log_probs[:, 1 - inputs["input_ids"].shape[1] :].detach().sum(1) - inputs["ref_logps"]
        module: Any = self.model
        metrics = self._metrics["train" if module.training else "eval"]
        right = ((ratios > metrics["kl"][-1]) == inputs["label"].bool()).float()
        metrics["rewards/accuracies"].append(self.accelerator.gather_for_metrics(right).mean().item())
        metrics.pop("rewards/margins", None)  # of a batch with both labels only; `log` has that of all batches
        return (loss, made[-1]) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the margin, the difference of the mean rewards of both labels since the last line, and log."""
        module: Any = self.model
        metrics = self._metrics["train" if module.training else "eval"]
        means = [
            sum(values) / len(values) for side in ("chosen", "rejected") if (values := metrics.get(f"rewards/{side}"))
        ]
        if len(means) == 2:
            metrics["rewards/margins"] = [means[0] - means[1]]
        super().log(logs, start_time)

    def _with_reference(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return a batch with the log-probabilities of the reference, and 0 for a fixed reference point."""
        if "ref_logps" not in inputs:
            found = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
            named = dict(zip(("ref_logps", "ref_KL_logps"), found, strict=True))
            inputs = {**inputs, **{name: values for name, values in named.items() if values is not None}}
        if self.point is not None:
            inputs = {**inputs, "ref_KL_logps": torch.zeros_like(inputs["ref_logps"])}
        return inputs

    def _compute_kl_logps(self, model: Any, batch: dict[str, Any]) -> Tensor | None:
        if self.point is None or not self.calculate_KL:
            return super()._compute_kl_logps(model, batch)
        return torch.full_like(batch["ref_logps"], self.point)

    @contextmanager
    def fixed_point(self, batches: Iterable[tuple[dict[str, Any], int]]) -> Generator[None]:
        """Use one reference point within the context: the mean of all ``batches`` of all processes.

        Each comes with its number of rows that count. TRL sets a negative estimate to 0 afterwards.
        """
        if self.calculate_KL:
            total, rows = 0.0, 0
            for inputs, count in batches:
                with torch.no_grad(), self.compute_loss_context_manager():
                    batch = self._with_reference(self._prepare_inputs(inputs))
                    ratios = super()._compute_kl_logps(self.model, batch) - batch["ref_KL_logps"]
                total, rows = total + ratios[:count].sum().item(), rows + count
            sums, counts = zip(*ranks.gathered((total, rows)), strict=True)
            self.point = sum(sums) / sum(counts)
        try:
            yield
        finally:
            self.point = None

    @contextmanager
    def sharing(self) -> Generator[None]:
        """Let policy and reference encode shared prefixes once within the context, if ``shared``."""
        with ExitStack() as stack:
            if self.shared:
                stack.enter_context(sharing(self.accelerator.unwrap_model(self.model), fields=kto.FIELDS))
                if self.ref_model is not None:
                    stack.enter_context(sharing(self.accelerator.unwrap_model(self.ref_model), fields=("log_probs",)))
            yield


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Train with KTO, evaluate on held-out rows and prompts, save the policy and return its metrics."""
    settings = reference.beside_shards(settings, ranks.strategy_of(settings.hardware), told=True)
    stage = settings.stage_as(KTOStage)
    rows = loop.read_splits(run, settings, "thumbs")
    rows["train"], least = kto.labeled(rows["train"], stage.desirable_from)
    rows["validation"], _ = kto.labeled(rows["validation"], least if stage.desirable_from is None else None)
    weights = kto.weights(stage, *kto.counted(rows["train"]))
    tell(run, rows, least, weights)
    asked, gold = eval_set.asked(settings, run)

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
        ReadyKTOTrainer,
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
    metrics |= eval_set.measure_trained(settings, run, trainer, tokenizer, asked, gold)
    loading.save(trainer.model, tokenizer, run.model, run["policy"])
    return metrics | {"objective": metrics["eval/rewards/accuracies"]}


def tell(run: Run, rows: dict[str, Any], least: float | None, weights: tuple[float, float]) -> None:
    """Print the rows of each label and origin, the weights of their losses and the ratio of both; record the counts."""
    for split, part in rows.items():
        counts = dict(zip(SIDES, kto.counted(part), strict=True)) | kto.by_origin(part)
        for name, count in counts.items():
            run.record_omission("preferences", split, count, name)
    good, bad = kto.counted(rows["train"])
    ratio = weights[0] * good / (weights[1] * bad)
    fits = "within" if 1 - 1e-9 <= ratio <= 1.5 else "outside"
    line = f"stage.desirable_weight={weights[0]:.4g} and stage.undesirable_weight={weights[1]:.4g}"
    console.print(f"{run.stage}: {line}: ratio {ratio:.3g}, {fits} the paper's 1 to 1.5", highlight=False)
    if least is not None:
        console.print(f"{run.stage}: a rating from {least:.4g} is desirable (stage.desirable_from)", highlight=False)
