"""KTO on top of TRL's trainer: rows with mismatched responses, class weights, a reference point of all held-out rows.

Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from trl import KTOConfig, KTOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from rlhf.config import KTOStage
from rlhf.data import cache
from rlhf.errors import DataError
from rlhf.hardware import ranks
from rlhf.modeling.seeding import permutation
from rlhf.preference import reference
from rlhf.preference.prefix_sharing import sharing

if TYPE_CHECKING:
    from datasets import Dataset

FIELDS = ("log_probs", "entropy", "mean_logits")  # of head.Scored, those that TRL's trainer reads
OTHER = "KL_"  # TRL's prefix of the columns of a mismatched response


def labeled(rows: "Dataset", threshold: float | None) -> tuple["Dataset", float | None]:
    """Return ``rows`` with a ``label`` (1 or 0) each, and the rating from which a rated response has the label 1.

    It is ``threshold``, or else the mean rating of these rows; None if no row has a rating.
    """
    if "rating" not in rows.column_names:
        return rows, None
    ratings = rows["rating"][:]
    known = [rating for rating in ratings if rating is not None]
    least = sum(known) / len(known) if threshold is None else threshold
    given = rows["label"][:] if "label" in rows.column_names else [None] * len(rows)
    labels = [float(rating >= least) if own is None else own for own, rating in zip(given, ratings, strict=True)]
    plain = rows.remove_columns([name for name in ("label", "rating") if name in rows.column_names])
    return plain.add_column("label", labels), least


def weights(stage: KTOStage, desirable: int, undesirable: int) -> tuple[float, float]:
    """Return λ_D and λ_U, the weights of the losses of desirable and undesirable responses.

    A weight that is not set makes both classes count the same, λ_D n_D = λ_U n_U; if neither is set, the one of the
    larger class is 1. The paper asks for a ratio λ_D n_D / (λ_U n_U) from 1 to 3/2 (eq. 9; 4/3 in its first version).

    Raises:
        DataError: a class has no response.
    """
    for name, count in (("desirable", desirable), ("undesirable", undesirable)):
        if not count:
            raise DataError(
                f"data.preferences (train) has no {name} response, and KTO contrasts both kinds: add some, or use "
                "stage=sft on desirable ones"
            )
    good, bad = stage.desirable_weight, stage.undesirable_weight
    if good is None:
        good = max(1.0, undesirable / desirable) if bad is None else bad * undesirable / desirable
    if bad is None:
        bad = good * desirable / undesirable
    return good, bad


def arranged(ids: "Dataset", seed: int, mismatched: bool) -> "Dataset":
    """Return token ids in the order of training, with the response to another prompt beside each if ``mismatched``.

    Prompts are in random order, and the responses to one prompt follow each other, so that a batch encodes it once.
    The mismatched responses estimate the reference point z_0. Each row has that of the row m places before it, m being
    the number of responses to the most frequent prompt: each response is used once, and, unless one prompt has more
    than half of the rows, never with its own prompt. TRL shifts by one place within each batch.
    """
    from datasets import concatenate_datasets

    prompts: dict[bytes, list[int]] = {}
    for row, prompt in enumerate(ids["prompt_ids"]):
        prompts.setdefault(torch.tensor(prompt, dtype=torch.int32).numpy().tobytes(), []).append(row)
    groups = list(prompts.values())
    places = [row for group in permutation(len(groups), seed, "kto").tolist() for row in groups[group]]
    key = cache.key_of("arranged", ids._fingerprint, seed, mismatched)
    found = ids.select(places, new_fingerprint=f"{key}-rows")
    if not mismatched:
        return found
    names = [name for name in ("completion_ids", "completion_heard") if name in ids.column_names]
    shift = max(map(len, groups))
    others = [places[(n - shift) % len(places)] for n in range(len(places))]
    beside = ids.select_columns(names).rename_columns({name: f"{OTHER}{name}" for name in names}).select(others)
    both = concatenate_datasets([found, beside], axis=1)
    return both.select_columns(both.column_names, new_fingerprint=key)


class Collator:
    """TRL's collator for responses with a label, of which only the assistant's turns count."""

    def __init__(self, collator: DataCollatorForUnpairedPreference):
        self.collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collator([example | {"label": bool(example["label"])} for example in examples])
        for prefix in ("", OTHER):
            for row, example in enumerate(examples):
                start, heard = len(example["prompt_ids"]), example.get(f"{prefix}completion_heard", ())
                for begin, end in zip(heard[::2], heard[1::2], strict=True):
                    batch[f"{prefix}completion_mask"][row, start + begin : start + end] = 0
        return batch


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
        super().__init__(data_collator=Collator(collator), **parts)
        self.precompute_ref_logps = True  # `_compute_loss` adds those that are not cached to the batch

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        heard = ["completion_heard", f"{OTHER}completion_heard"]
        self._signature_columns = [*dict.fromkeys([*self._signature_columns, *heard])]

    def _precompute_ref_logps(self, dataset: "Dataset", name: str, batch_size: int) -> "Dataset":
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
                stack.enter_context(sharing(self.accelerator.unwrap_model(self.model), fields=FIELDS))
                if self.ref_model is not None:
                    stack.enter_context(sharing(self.accelerator.unwrap_model(self.ref_model), fields=("log_probs",)))
            yield


def counted(rows: "Dataset") -> tuple[int, int]:
    """Return the number of desirable and of undesirable rows."""
    found = Counter(bool(label) for label in rows["label"])
    return found[True], found[False]
