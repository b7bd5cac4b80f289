"""Held-out metrics that depend neither on the evaluation batch nor on the number of processes.

transformers and TRL average over batches: rows of a small last batch have a larger weight, and with several processes
the rows that pad the last batches count twice. Here every pair counts once, and in a mean over tokens every token.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader

from rlhf.hardware import ranks
from rlhf.training.oom import BY_TOKEN, by_token_times, fixed_point, learned_from

EXTREMES = {"min_reward": min, "max_reward": max}


class ExactEvaluation:
    """Replaces a Trainer's evaluation by sums over pairs and tokens instead of means of batches.

    Process r of n evaluates rows r, r + n, ...; a process without rows left repeats one, which does not count, since
    all processes must make the same number of forward passes. A DPO loss that compares the pairs of a batch with each
    other (``oom.WHOLE``) still depends on the batch.
    """

    def __init__(self, trainer: Any):
        self.trainer, self.loop, self.step = trainer, trainer.evaluation_loop, trainer.prediction_step
        self.rows: Iterator[int] = iter(())  # of each remaining batch
        self.tokens_per_pair: float | None = None  # of the whole split, if a part of the loss is a mean over tokens
        self.totals: dict[str, tuple[float, float]] = {}  # metric -> sum over its units, number of units
        trainer.get_eval_dataloader, trainer.evaluation_loop = self.loader, self.run
        trainer.prediction_step = self.measure

    def loader(self, dataset: Any = None) -> DataLoader:
        """Return the batches of this process, the same number in every process."""
        dataset = self.trainer.eval_dataset if dataset is None else dataset
        size, own = self.trainer.args.eval_batch_size, range(ranks.rank(), len(dataset), ranks.size())
        batches = [own[start : start + size] for start in range(0, -(-len(dataset) // ranks.size()), size)]
        self.rows = iter([len(batch) for batch in batches])
        return DataLoader(
            dataset,
            batch_sampler=[list(batch) or [0] for batch in batches],
            collate_fn=self.trainer.data_collator,
            generator=torch.Generator(),  # the global generator would advance and change training
        )

    def run(self, dataloader: DataLoader, *args: Any, metric_key_prefix: str = "eval", **named: Any) -> Any:
        """Evaluate, and report the totals of all processes instead of the means of batches."""
        self.totals, self.tokens_per_pair = {}, None
        if BY_TOKEN in getattr(self.trainer, "loss_types", ()):
            self.tokens_per_pair = self._tokens_per_pair(dataloader)
        with fixed_point(self.trainer, self._batches(dataloader)):
            output = self.loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **named)
        means = merged(ranks.gathered(self.totals))
        output.metrics[f"{metric_key_prefix}_loss"] = means.pop("loss")
        if hasattr(self.trainer, "_metrics"):
            self.trainer._metrics["eval"].clear()
            self.trainer._metrics["eval"].update({key: [value] for key, value in means.items()})
        return output

    def _batches(self, dataloader: DataLoader) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield each batch before it is evaluated, with its number of rows that count."""
        rows = list(self.rows)
        self.rows = iter(rows)
        yield from zip(dataloader, rows, strict=True)

    def _tokens_per_pair(self, dataloader: DataLoader) -> float:
        own = (0, 0)
        for batch, rows in self._batches(dataloader):
            learned = learned_from(batch)
            if learned is not None and rows:
                own = (own[0] + rows, own[1] + learned.sum().item())
        pairs, chosen = map(sum, zip(*ranks.gathered(own), strict=True))
        return chosen / pairs

    def measure(self, model: Any, inputs: dict[str, Any], *args: Any, **named: Any) -> Any:
        """Evaluate one batch and add its metrics to the totals."""
        rows = next(self.rows)
        units, factor = units_of(inputs, rows), 1.0
        if self.tokens_per_pair and rows:
            factor = units["mean_token_accuracy"] / rows / self.tokens_per_pair
        with alone(self.trainer), by_token_times(self.trainer, factor):
            output = self.step(model, inputs, *args, **named)
        measured = getattr(self.trainer, "_metrics", {}).get("eval", {})
        batch = {key: values[-1] for key, values in measured.items() if key != "num_tokens"}
        measured.clear()
        for key, value in (batch | {"loss": output[0].item()}).items():
            if count := units.get(key, units["others"]):
                self.totals[key] = added(key, self.totals.get(key), weighed(key, value, count))
        return output


def units_of(inputs: Mapping[str, Any], rows: int) -> dict[str, float]:
    """Return the number of pairs or tokens that each metric of a batch is a mean of; 0 if the batch does not count."""
    if "label" in inputs and rows:
        return _units_of_labels(inputs, rows)
    tokens = learned_from(inputs)
    if tokens is None or not rows:
        return {"others": rows}
    learned = tokens.sum().item()
    if "completion_mask" not in inputs:  # without pairs every metric is a mean over tokens
        return {"others": learned}
    both = inputs["completion_mask"][:, 1:].sum().item()
    of_pairs = {"others": rows, "entropy": both, "logits/chosen": learned, "logits/rejected": both - learned}
    return of_pairs | {"mean_token_accuracy": learned}


def _units_of_labels(inputs: Mapping[str, Any], rows: int) -> dict[str, float]:
    """Return the units of KTO's metrics: a label's metrics are means over its rows or tokens."""
    tokens, desirable = inputs["completion_mask"][:, 1:].sum(1), inputs["label"].bool()
    found = {"others": rows, "entropy": tokens.sum().item()}
    for side, chosen in (("chosen", desirable), ("rejected", ~desirable)):
        count = chosen.sum().item()
        found |= {f"rewards/{side}": count, f"logps/{side}": count, f"logits/{side}": tokens[chosen].sum().item()}
    return found


def weighed(key: str, value: float, count: float) -> tuple[float, float]:
    """Return the sum over a batch from its mean over ``count`` units, and the count."""
    if key in EXTREMES:
        return value, 1.0
    # An accuracy is an integer divided by the count; rounding makes sums independent of the batch size.
    return (round(value * count) if "accurac" in key else value * count), count


def added(key: str, one: tuple[float, float] | None, other: tuple[float, float]) -> tuple[float, float]:
    """Return the total of two totals of a metric; of a minimum or maximum, the extreme."""
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
def alone(trainer: Any) -> Generator[None]:
    """Compute a batch's metrics in this process only, since batches of other processes may have other sizes."""
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
