"""Memory that ran out in a micro-batch: it is halved, the batch and its gradient stay what they were.

The gradient of a mean over rows is the sum of the gradients of its parts, each weighed by its share of the rows, or of
the tokens where those are what the mean is taken over.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from rlhf.console import console
from rlhf.errors import TrainingError
from rlhf.hardware import ranks

if TYPE_CHECKING:
    from transformers import Trainer

T = TypeVar("T")
Inputs = Mapping[str, Any]

WHOLE = ("aot", "aot_unpaired")  # TRL's losses of pairs that compare pairs with each other
BY_TOKEN = "sft"  # and the one that is a mean over the chosen tokens


def ran_out(error: RuntimeError) -> bool:
    """Whether an allocator has no memory left: the one of a GPU, or the one of the CPU, known by its text."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class Parts:
    """Into how many parts a micro-batch is taken: twice as many from the moment on that memory runs out."""

    def __init__(self, title: str, halves: bool = True):
        self.title, self.halves, self.count = title, halves, 1

    def attempt(
        self,
        work: Callable[[], T],
        rows: int,
        again: Callable[[], None] = lambda: None,
        anywhere: Callable[[bool], bool] = bool,
    ) -> T:
        """``work()``, which reads ``count``; where memory runs out ``again()``, which undoes it, and once more.

        ``anywhere`` says whether it ran out in any of the processes that work at once, which then all do so.

        Raises:
            TrainingError: ``rows`` cannot be divided any further.
        """
        while True:
            found = None
            try:
                found = work()
                failed = False
            except RuntimeError as error:
                if not self.halves or not ran_out(error):
                    raise
                failed = True
            # Not in the handler: until it is left the error holds all that did not fit.
            if not anywhere(failed):
                return found
            found = None
            again()
            self.halve(rows)

    def halve(self, rows: int) -> None:
        if rows <= self.count:
            raise TrainingError(
                "memory does not suffice for a micro-batch of one row: shorten the rows, or give adapter=lora, "
                "model.dtype=bfloat16 or stage.trainer.activation_checkpointing=true"
            )
        self.count *= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        size = -(-rows // self.count)
        told = f"out of memory, so micro-batches have at most {size} rows from here on"
        console.print(f"{self.title}: {told}; batch and gradient stay as they are", soft_wrap=True)


class HalvedSteps:
    """Takes the place of a Trainer's ``training_step``, so that memory that runs out does not end the training.

    In one process alone. TRL's losses gather what they measure from all processes while they are computed: one that
    ran out of memory there would leave the others waiting, and all that can be done is to say so.
    """

    def __init__(self, trainer: "Trainer", title: str, paired: bool):
        self.trainer, self.paired, self.parts = trainer, paired, Parts(title)
        self.step, self.loss, self.share = trainer.training_step, trainer.compute_loss, 1.0
        self.taken: list[tuple[Inputs, Any]] = []  # of the optimiser step under way
        trainer.training_step, trainer.compute_loss = self, self.weighed

    def weighed(self, *arguments: Any, **named: Any) -> Any:
        """The loss, times the share that the part under way has in its batch."""
        found = self.loss(*arguments, **named)
        return found if self.share == 1.0 else found * self.share  # a part is asked for its loss alone

    def __call__(self, model: Any, inputs: Inputs, num_items_in_batch: Any = None) -> Tensor:
        """A training step; where memory runs out those of the same optimiser step are taken again, in halves.

        A backward pass that stopped half-way has left part of a gradient among those of the steps before it.
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
        for part, rows, tokens in self._split(inputs):
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
        """Parts by example, each with its share of the examples, and of the tokens that are learned from, if any are
        named.

        Pairs are stacked, all chosen rows before all rejected ones; a ranking's rows follow each other.
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
        """What cannot be divided.

        Raises:
            TrainingError: several processes share the run, or the loss is none of single examples.
        """
        args = self.trainer.args
        size, steps = args.per_device_train_batch_size, args.gradient_accumulation_steps
        remedy = (
            f"start again with stage.trainer.per_device_train_batch_size={max(size // 2, 1)} and "
            f"stage.trainer.gradient_accumulation_steps={steps * 2}"
        )
        losses = getattr(args, "loss_type", None)
        whole = [name for name in losses if name in WHOLE] if self.paired and isinstance(losses, list) else []
        if whole:
            raise TrainingError(f"out of memory, and stage.loss={whole} is none of single pairs: {remedy}")
        rows = self._examples(inputs) if isinstance(inputs.get("input_ids"), Tensor) else 0
        lengths = {len(value) if value.dim() else 0 for value in inputs.values() if isinstance(value, Tensor)}
        if not rows or lengths - {rows, len(inputs["input_ids"])}:
            raise TrainingError(f"out of memory, and rows that are packed together cannot be parted: {remedy}")

    # What TRL's trainers measure they append to lists, an entry a step: parts would be counted as steps.

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
        """One entry of each metric for all parts: their mean, weighed as the rows are."""
        for key, values in getattr(self.trainer, "_metrics", {}).get("train", {}).items():
            new = values[len(before[0].get(key, [])) :]
            if len(new) == len(shares):
                mean = sum(share * value for share, value in zip(shares, new, strict=True))
                values[len(values) - len(new) :] = [mean]


def learned_from(inputs: Inputs) -> Tensor | None:
    """Of each row the tokens that a mean over tokens is taken over; of pairs, those of the chosen response."""
    if "labels" in inputs:
        return (inputs["labels"][:, 1:] != -100).sum(-1)
    if "completion_mask" not in inputs:
        return None
    learned = inputs["completion_mask"][:, 1:].sum(-1)
    learned[len(learned) // 2 :] = 0
    return learned


@contextmanager
def by_token_times(trainer: "Trainer", factor: float) -> Iterator[None]:
    """DPO's loss that is a mean over tokens, times ``factor``: the others are means over pairs."""
    weights = getattr(trainer, "loss_weights", None)
    if weights is not None:
        kinds = zip(trainer.loss_types, weights, strict=True)
        trainer.loss_weights = [weight * (factor if kind == BY_TOKEN else 1.0) for kind, weight in kinds]
    try:
        yield
    finally:
        if weights is not None:
            trainer.loss_weights = weights


def share_tokens(trainer: "Trainer") -> None:
    """Let processes with different numbers of chosen tokens have parts as different in their mean over tokens.

    TRL does so for the loss of demonstrations; of pairs it averages each process's own mean, which is another loss.
    """
    if not ranks.started() or BY_TOKEN not in getattr(trainer, "loss_types", ()):
        return
    step = trainer.training_step

    def shared(model: Any, inputs: Inputs, num_items_in_batch: Any = None) -> Tensor:
        own = learned_from(inputs).sum().to(trainer.args.device)
        everyone = trainer.accelerator.reduce(own, reduction="sum").clamp(min=1)
        with by_token_times(trainer, (own * ranks.size() / everyone).item()):
            return step(model, inputs, num_items_in_batch)

    trainer.training_step = shared


def halve_steps(trainer: "Trainer", title: str, paired: bool) -> None:
    """Let ``trainer`` go on where memory runs out; of several processes, say what to do instead.

    Raises:
        TrainingError: from the trainer's steps, where memory ran out and nothing can be halved.
    """
    if not ranks.started():
        HalvedSteps(trainer, title, paired)
        return
    step = trainer.training_step

    def told(*arguments: Any, **named: Any) -> Tensor:
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

    trainer.training_step = told
