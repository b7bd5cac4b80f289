"""Out-of-memory errors: the micro-batch is halved; the batch and the gradient stay the same.

The gradient of a mean over rows is the sum of the gradients of its parts, weighted by their shares of the rows, or of
the tokens if the mean is over tokens.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import accumulate, pairwise
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from rlhf.console import console, plural
from rlhf.errors import TrainingError
from rlhf.hardware import ranks

T = TypeVar("T")
Inputs = Mapping[str, Any]

WHOLE = ("aot", "aot_unpaired")  # TRL's DPO losses that compare pairs with each other
BY_TOKEN = "sft"  # TRL's DPO loss that is a mean over the chosen tokens


def ran_out(error: RuntimeError) -> bool:
    """Whether an allocator is out of memory, of a GPU, or of the CPU, which is recognized by the message."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class Parts:
    """The number of parts of a micro-batch, which is doubled each time memory runs out."""

    def __init__(self, title: str, halves: bool = True):
        self.title, self.halves, self.count = title, halves, 1

    def attempt(
        self,
        work: Callable[[], T],
        rows: int,
        again: Callable[[], None] = lambda: None,
        anywhere: Callable[[bool], bool] = bool,
    ) -> T:
        """Return ``work()``, which reads ``count``; if memory runs out, undo it with ``again()`` and retry.

        ``anywhere`` returns whether memory ran out in any process, so that all processes retry together.

        Raises:
            TrainingError: ``rows`` cannot be divided any further.
        """
        while True:
            results: list[T] = []
            try:
                results.append(work())
            except RuntimeError as error:
                if not self.halves or not ran_out(error):
                    raise
            # Not in the handler, where the error's traceback still references the tensors.
            if not anywhere(not results):
                return results.pop()
            results.clear()
            again()
            self.halve(rows)

    def halve(self, rows: int) -> None:
        """Double the number of parts.

        Raises:
            TrainingError: ``rows`` cannot be divided any further.
        """
        if rows <= self.count:
            raise TrainingError(
                "memory does not suffice for a micro-batch of one row: shorten the rows, or set adapter=lora, "
                "model.dtype=bfloat16 or stage.trainer.activation_checkpointing=true"
            )
        self.count *= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        size = -(-rows // self.count)
        most = plural(size, "row")
        sentence = f"out of memory: micro-batches now have at most {most}; batch and gradient stay the same"
        console.print(f"{self.title}: {sentence}", soft_wrap=True)


class HalvedSteps:
    """Replaces a Trainer's ``training_step``, so that training continues after out-of-memory errors.

    It works in a single process only: TRL's losses gather metrics from all processes, and a process that runs out of
    memory would leave the others waiting.
    """

    def __init__(self, trainer: Any, title: str, paired: bool):
        self.trainer, self.paired, self.parts = trainer, paired, Parts(title)
        self.step, self.loss, self.share = trainer.training_step, trainer.compute_loss, 1.0
        self.taken: list[tuple[Inputs, Any]] = []  # micro-batches of the current optimizer step
        trainer.training_step, trainer.compute_loss = self, self.weighed

    def weighed(self, *arguments: Any, **named: Any) -> Any:
        """Return the loss, multiplied by the current part's share of its batch."""
        loss = self.loss(*arguments, **named)
        return loss if self.share == 1.0 else loss * self.share  # a part has no other outputs

    def __call__(self, model: Any, inputs: Inputs, num_items_in_batch: Any = None) -> Tensor:
        """Run a training step; if memory runs out, repeat all micro-batches of the optimizer step in smaller parts.

        The accumulated gradient includes a part of the interrupted backward pass and has to be discarded.
        """
        self.taken.append((inputs, num_items_in_batch))
        pending = self.taken[-1:]
        before = self._measured()

        def work() -> Tensor:
            for batch in pending:
                self._restore(before)
                loss = self._in_parts(model, *batch)
            return loss

        def again() -> None:
            nonlocal pending
            self._refuse(inputs)
            self.share, pending = 1.0, self.taken
            self._restore(before)
            model.zero_grad()

        loss = self.parts.attempt(work, self._examples(inputs), again)
        if self.trainer.accelerator.sync_gradients:
            self.taken = []
        return loss

    def _in_parts(self, model: Any, inputs: Inputs, items: Any) -> Tensor:
        if self.parts.count == 1:
            return self.step(model, dict(inputs), items)
        before = self._measured()
        total, shares = torch.zeros((), device=self.trainer.args.device), []
        parts = self._split(inputs)
        with fixed_point(self.trainer, [(part, len(part["input_ids"])) for part, _, _ in parts]):
            for part, rows, tokens in parts:
                with by_token_times(self.trainer, 1.0 if tokens is None else tokens / rows):
                    self.share = 1.0 if items is not None else rows if tokens is None or self.paired else tokens
                    total = total + self.step(model, part, items)
                shares.append(rows)
        self.share = 1.0
        self._average(before, shares)
        return total

    def _examples(self, inputs: Inputs) -> int:
        if "sizes" in inputs:  # rankings, each of several rows
            return len(inputs["sizes"])
        return len(inputs["input_ids"]) // (2 if self.paired else 1)

    def _split(self, inputs: Inputs) -> list[tuple[dict[str, Any], float, float | None]]:
        """Return parts of whole examples, with their shares of the examples and, if known, of the trained tokens.

        Pairs are stacked, all chosen rows before all rejected ones; a ranking's rows are consecutive.
        """
        examples, rows = self._examples(inputs), len(inputs["input_ids"])
        learned = learned_from(inputs)
        found = []
        for chosen in torch.arange(examples).tensor_split(min(self.parts.count, examples)):
            if "sizes" in inputs:
                ends = [0, *accumulate(inputs["sizes"].tolist())]
                spans = list(pairwise(ends))
                own = torch.cat([torch.arange(*spans[i]) for i in chosen.tolist()])
            else:
                own = torch.cat([chosen + start for start in range(0, rows, examples)])
            index = {rows: own, examples: chosen}
            part = {
                key: value[index[len(value)].to(value.device)] if isinstance(value, Tensor) else value
                for key, value in inputs.items()
            }
            tokens = None if learned is None else (learned[own].sum() / learned.sum().clamp(min=1)).item()
            found.append((part, len(chosen) / examples, tokens))
        return found

    def _refuse(self, inputs: Inputs) -> None:
        """Check that the batch can be divided.

        Raises:
            TrainingError: the loss compares examples with each other, or rows are packed.
        """
        args = self.trainer.args
        size, steps = args.per_device_train_batch_size, args.gradient_accumulation_steps
        remedy = (
            f"start again with stage.trainer.per_device_train_batch_size={max(size // 2, 1)} and "
            f"stage.trainer.gradient_accumulation_steps={steps * 2}"
        )
        losses = getattr(args, "loss_type", None)
        whole = [name for name in losses if name in WHOLE] if self.paired and isinstance(losses, list) else []
        named = f"stage.loss={whole}" if whole else getattr(self.trainer, "whole", None)
        if named:
            raise TrainingError(f"out of memory, and {named} compares pairs with each other: {remedy}")
        rows = self._examples(inputs) if isinstance(inputs.get("input_ids"), Tensor) else 0
        lengths = {len(value) if value.dim() else 0 for value in inputs.values() if isinstance(value, Tensor)}
        if not rows or lengths - {rows, len(inputs["input_ids"])}:
            raise TrainingError(f"out of memory, and packed rows cannot be divided: {remedy}")

    # TRL's trainers append metrics to lists, one entry per step: parts would be counted as steps.

    def _measured(self) -> tuple[dict[str, list], Any]:
        metrics = getattr(self.trainer, "_metrics", {}).get("train", {})
        return {key: list(values) for key, values in metrics.items()}, getattr(
            self.trainer, "_total_train_tokens", None
        )

    def _restore(self, before: tuple[dict[str, list], Any]) -> None:
        if hasattr(self.trainer, "_metrics"):
            self.trainer._metrics["train"].clear()
            self.trainer._metrics["train"].update({key: list(values) for key, values in before[0].items()})
        if before[1] is not None:
            self.trainer._total_train_tokens = before[1]

    def _average(self, before: tuple[dict[str, list], Any], shares: list[float]) -> None:
        """Replace the parts' entries of each metric by their mean, weighted by rows."""
        for key, values in getattr(self.trainer, "_metrics", {}).get("train", {}).items():
            new = values[len(before[0].get(key, [])) :]
            if len(new) == len(shares):
                mean = sum(share * value for share, value in zip(shares, new, strict=True))
                values[len(values) - len(new) :] = [mean]


def learned_from(inputs: Inputs) -> Tensor | None:
    """Return the number of tokens (B,) per row that a mean over tokens counts; of pairs, only in chosen responses."""
    if "labels" in inputs:
        return (inputs["labels"][:, 1:] != -100).sum(-1)
    if "completion_mask" not in inputs or "label" in inputs:
        return None  # KTO's loss is a mean over rows
    learned = inputs["completion_mask"][:, 1:].sum(-1)
    learned[len(learned) // 2 :] = 0
    return learned


@contextmanager
def by_token_times(trainer: Any, factor: float) -> Generator[None]:
    """Multiply the DPO loss that is a mean over tokens by ``factor``; the others are means over pairs."""
    weights = getattr(trainer, "loss_weights", None)
    if weights is not None:
        kinds = zip(trainer.loss_types, weights, strict=True)
        trainer.loss_weights = [weight * (factor if kind == BY_TOKEN else 1.0) for kind, weight in kinds]
    try:
        yield
    finally:
        if weights is not None:
            trainer.loss_weights = weights


def fixed_point(trainer: Any, batches: Iterable[tuple[Inputs, int]]) -> AbstractContextManager[None]:
    """Return a context in which KTO's reference point is that of all ``batches``, each with its rows that count."""
    fixed = getattr(trainer, "fixed_point", None)
    return nullcontext() if fixed is None else fixed(batches)


def share_tokens(trainer: Any) -> None:
    """Weight the mean over chosen tokens of each process by its number of tokens.

    TRL does so for demonstrations; for pairs it averages the means of processes, which is a different loss.
    """
    if not ranks.started() or BY_TOKEN not in getattr(trainer, "loss_types", ()):
        return
    step = trainer.training_step

    def shared(model: Any, inputs: Inputs, num_items_in_batch: Any = None) -> Tensor:
        own = cast("Tensor", learned_from(inputs)).sum().to(trainer.args.device)
        everyone = trainer.accelerator.reduce(own, reduction="sum").clamp(min=1)
        with by_token_times(trainer, (own * ranks.size() / everyone).item()):
            return step(model, inputs, num_items_in_batch)

    trainer.training_step = shared


def halve_steps(trainer: Any, title: str, paired: bool) -> None:
    """Let ``trainer`` continue after out-of-memory errors; with several processes, only explain the remedy.

    Raises:
        TrainingError: from the trainer's steps, if memory runs out and the micro-batch cannot be halved.
    """
    if not ranks.started():
        HalvedSteps(trainer, title, paired)
        return
    step = trainer.training_step

    def explained(*arguments: Any, **named: Any) -> Tensor:
        try:
            return step(*arguments, **named)
        except RuntimeError as error:
            if not ran_out(error):
                raise
            args = trainer.args
            raise TrainingError(
                f"out of memory in one of {ranks.size()} processes: start again with stage.trainer."
                f"per_device_train_batch_size={max(args.per_device_train_batch_size // 2, 1)} and stage.trainer."
                f"gradient_accumulation_steps={args.gradient_accumulation_steps * 2}, which take the same steps"
            ) from error

    trainer.training_step = explained
