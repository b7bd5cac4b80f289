"""Held-out metrics that depend neither on the evaluation batch nor on the number of processes.

transformers and TRL average over batches: the rows of a small last batch count more than the others, and with several
processes the rows that fill up the last batches count twice. Here every pair counts once, and in a mean over tokens
every token.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from rlhf.hardware import ranks
from rlhf.training.oom import BY_TOKEN, by_token_times, learned_from

if TYPE_CHECKING:
    from transformers import Trainer

EXTREMES = {"min_reward": min, "max_reward": max}


class ExactEvaluation:
    """Takes the place of a Trainer's evaluation: sums over pairs and tokens instead of means of batches.

    Process r of n evaluates rows r, r + n, ...; a process that runs out of rows repeats one, which does not count: all
    processes must make the same number of forward passes. The value of a DPO loss that compares the pairs of a batch
    with each other (``halving.WHOLE``) still depends on the batch.
    """

    def __init__(self, trainer: "Trainer"):
        self.trainer, self.loop, self.step = trainer, trainer.evaluation_loop, trainer.prediction_step
        self.rows: Iterator[int] = iter(())  # of each batch to come
        self.tokens_per_pair: float | None = None  # of the whole split, where a part of the loss is a mean over tokens
        self.totals: dict[str, tuple[float, float]] = {}  # metric -> sum over its units, number of units
        trainer.get_eval_dataloader, trainer.evaluation_loop = self.loader, self.run
        trainer.prediction_step = self.measure

    def loader(self, dataset: Any = None) -> DataLoader:
        """Return the batches of this process, as many as every other has."""
        dataset = self.trainer.eval_dataset if dataset is None else dataset
        size, own = self.trainer.args.eval_batch_size, range(ranks.rank(), len(dataset), ranks.size())
        batches = [own[start : start + size] for start in range(0, -(-len(dataset) // ranks.size()), size)]
        self.rows = iter([len(batch) for batch in batches])
        return DataLoader(
            dataset,
            batch_sampler=[batch or [0] for batch in batches],
            collate_fn=self.trainer.data_collator,
            generator=torch.Generator(),  # torch's own would move on, and training draw other numbers
        )

    def run(self, dataloader: DataLoader, *args: Any, metric_key_prefix: str = "eval", **named: Any) -> Any:
        """Evaluate, and report the totals of all processes in place of the means of batches."""
        self.totals, self.tokens_per_pair = {}, None
        if BY_TOKEN in getattr(self.trainer, "loss_types", ()):
            self.tokens_per_pair = self._tokens_per_pair(dataloader)
        found = self.loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **named)
        means = merged(ranks.gathered(self.totals))
        found.metrics[f"{metric_key_prefix}_loss"] = means.pop("loss")
        if hasattr(self.trainer, "_metrics"):
            self.trainer._metrics["eval"].clear()
            self.trainer._metrics["eval"].update({key: [value] for key, value in means.items()})
        return found

    def _tokens_per_pair(self, dataloader: DataLoader) -> float:
        rows = list(self.rows)
        self.rows = iter(rows)
        tokens = [learned_from(batch).sum().item() for batch in dataloader]
        own = (sum(rows), sum(count for count, real in zip(tokens, rows, strict=True) if real))
        pairs, chosen = map(sum, zip(*ranks.gathered(own), strict=True))
        return chosen / pairs

    def measure(self, model: Any, inputs: dict[str, Any], *args: Any, **named: Any) -> Any:
        """Evaluate one batch, and add what was measured of it to the totals."""
        rows = next(self.rows)
        units, factor = units_of(inputs, rows), 1.0
        if self.tokens_per_pair and rows:
            factor = units["mean_token_accuracy"] / rows / self.tokens_per_pair
        with alone(self.trainer), by_token_times(self.trainer, factor):
            found = self.step(model, inputs, *args, **named)
        measured = getattr(self.trainer, "_metrics", {}).get("eval", {})
        batch = {key: values[-1] for key, values in measured.items() if key != "num_tokens"}
        measured.clear()
        for key, value in (batch | {"loss": found[0].item()}).items():
            if count := units.get(key, units["others"]):
                self.totals[key] = added(key, self.totals.get(key), weighed(key, value, count))
        return found


def units_of(inputs: Mapping[str, Any], rows: int) -> dict[str, float]:
    """Return how many pairs or tokens of a batch each metric is a mean of; zero of a batch that does not count."""
    tokens = learned_from(inputs)
    if tokens is None or not rows:
        return {"others": rows}
    learned = tokens.sum().item()
    if "completion_mask" not in inputs:  # no pairs: everything is a mean over tokens
        return {"others": learned}
    both = inputs["completion_mask"][:, 1:].sum().item()
    of_pairs = {"others": rows, "entropy": both, "logits/chosen": learned, "logits/rejected": both - learned}
    return of_pairs | {"mean_token_accuracy": learned}


def weighed(key: str, value: float, count: float) -> tuple[float, float]:
    """Return the sum that a batch's mean of ``count`` units stands for, and the count."""
    if key in EXTREMES:
        return value, 1.0
    # A share is a whole number over the count: rounded, sums of batches of any size are equal to the bit.
    return (round(value * count) if "accurac" in key else value * count), count


def added(key: str, one: tuple[float, float] | None, other: tuple[float, float]) -> tuple[float, float]:
    if one is None:
        return other
    if key in EXTREMES:
        return EXTREMES[key](one[0], other[0]), 1.0
    return one[0] + other[0], one[1] + other[1]


def merged(parts: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    """Return each metric over the totals of all processes."""
    found: dict[str, tuple[float, float]] = {}
    for part in parts:
        for key, total in part.items():
            found[key] = added(key, found.get(key), total)
    return {key: total / count for key, (total, count) in found.items()}


@contextmanager
def alone(trainer: "Trainer") -> Iterator[None]:
    """Within, a batch's metrics are of this process only: batches of the others may have other sizes."""
    accelerator, args = trainer.accelerator, trainer.args
    averaged, args.average_tokens_across_devices = args.average_tokens_across_devices, False
    names = ("gather", "gather_for_metrics")
    for name in names:
        setattr(accelerator, name, lambda value: value)
    try:
        yield
    finally:
        args.average_tokens_across_devices = averaged
        for name in names:
            delattr(accelerator, name)
