"""What a transformers Trainer reports in each step, and interruption at the end of one."""

import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from rlhf.console import Bar
from rlhf.errors import TrainingError
from rlhf.hardware import ranks
from rlhf.runs.headlines import progress
from rlhf.runs.run import Run

# Depend on the machine, the time or the step of resumption: equal runs would not write equal metrics.
INCIDENTAL = ("runtime", "preparation_time", "per_second", "total_flos", "num_input_tokens_seen", "num_tokens", "epoch")


class Interruption:
    """A context in which Ctrl-C sets ``asked``, so that the loop can save and stop; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Interruption":
        self._usable = threading.current_thread() is threading.main_thread()  # elsewhere Python allows no handler
        if self._usable:
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._usable:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class Reporter(TrainerCallback):
    """Sends a Trainer's logs to the run and the terminal, and stops it at the end of a step on request."""

    def __init__(
        self,
        run: Run,
        on_sample: Callable[[int], None] | None,
        every: int,
        interruption: Interruption,
        before: int = 0,
        title: str | None = None,
    ):
        self.run, self.on_sample, self.every, self.interruption = run, on_sample, every, interruption
        self.before, self.title = before, title or run.stage
        self.bar: Bar | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the progress bar."""
        self.run.schedule(self.before + state.global_step, self.before + state.max_steps)
        self.bar = Bar(self.title, state.max_steps, state.global_step, partial(progress, self.run.stage))

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Update the bar; save and stop on request, else sample if it is due."""
        if self.bar is not None:
            self.bar.update(state.global_step)
        # Ctrl-C may reach only one process, or between two steps: all stop at the same step.
        if ranks.anywhere(self.interruption.asked):
            self.interruption.asked = True
            control.should_save = control.should_training_stop = True
        elif self.on_sample is not None and self.every and state.global_step % self.every == 0:
            self.on_sample(state.global_step)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict | None = None, **_: Any
    ) -> None:
        """Log metrics.

        Raises:
            TrainingError: a loss is not finite.
        """
        if logs is None or "train_loss" in logs:  # run.json has the metrics of the final summary
            return
        metrics = rename(logs)
        if not all(torch.isfinite(torch.tensor(value)) for key, value in metrics.items() if key.endswith("loss")):
            raise TrainingError(
                f"the loss is {metrics} at step {state.global_step}: lower stage.trainer.learning_rate, "
                "or use model.dtype=float32"
            )
        self.run.log(metrics, self.before + state.global_step)
        if self.bar is not None:  # a run that is resumed after its last step has no bar
            self.bar.update(state.global_step, metrics)

    def close(self) -> None:
        """Close the progress bar."""
        if self.bar is not None:
            self.bar.close()


def rename(logs: dict[str, Any]) -> dict[str, float]:
    """Rename transformers' metrics: ``eval_loss`` -> ``eval/loss``, ``loss`` -> ``train/loss``; omit times."""
    kept = {key: value for key, value in logs.items() if not any(name in key for name in INCIDENTAL)}
    return {
        f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}": float(value)
        for key, value in kept.items()
    }
