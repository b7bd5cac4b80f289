"""Exact checkpoints of a transformers Trainer: a resumed run is bit-identical to an uninterrupted one."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from rlhf.hardware import ranks
from rlhf.runs.run import Run
from rlhf.storage.checksums import number, seal

ORDER = "epoch.safetensors"  # torch's generator at the beginning of the epoch


def written_at(last: Path | None) -> dict[str, int] | None:
    """Return the number of lines of each log when the checkpoint was written."""
    return None if last is None else json.loads((last / "logs.json").read_text(encoding="utf-8"))


def take_up_if_trained(trainer: Trainer, last: Path) -> bool:
    """Load the weights of a checkpoint of the last step, or the best ones if ``load_best_model_at_end``.

    Return whether training was complete. ``trainer.train`` would take one step too many.
    """
    state = TrainerState.load_from_json(str(last / "trainer_state.json"))
    if state.global_step < state.max_steps:
        return False
    best = state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    trainer._load_from_checkpoint(best or str(last))
    trainer.state = state
    return True


class Keeper(TrainerCallback):
    """Makes a Trainer's checkpoints exact and deletes corrupted ones.

    transformers' checkpoints do not include the sums since the last logged line, so that a resumed run would log
    averages over a part of that interval. Here a checkpoint has the sums of all processes: each process continues from
    its part, or from the mean if the number of processes has changed.

    They do not include the state from which the order of the current epoch was drawn, either: with
    ``train_sampling_strategy=group_by_length`` transformers 5.23 and 5.24 draw it from torch's global generator, and a
    run that is resumed in a later epoch would see the rows in the order of its first one.
    """

    def __init__(self, trainer: Trainer, run: Run, last: Path | None):
        self.trainer, self.run, self.last = trainer, run, last
        self.epoch = torch.get_rng_state()  # at the beginning of the current epoch
        order = None if last is None else last / ORDER
        self.order = load_file(order)["generator"] if order is not None and order.is_file() else None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Delete corrupted checkpoints and restore the sums since the last logged line."""
        trainer: Any = self.trainer
        if state.is_world_process_zero:
            # transformers keeps the checkpoints with the highest numbers and would delete new ones instead of these.
            for folder in Path(args.output_dir).glob("checkpoint-*"):
                if self.last is None or number(folder) > number(self.last):
                    shutil.rmtree(folder)
        if self.last is not None:
            interval = json.loads((self.last / "interval.json").read_text(encoding="utf-8"))
            losses = interval["losses"]
            same = len(losses) == args.world_size
            trainer._tr_loss += losses[args.process_index] if same else sum(losses) / len(losses)
            trainer._globalstep_last_logged = interval["since"]
            if interval["metrics"] is not None:  # only TRL's trainers have them
                trainer._metrics["train"].update(interval["metrics"])

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Set torch's generator to its state at the beginning of the epoch that is resumed; note it for checkpoints."""
        if self.order is not None:
            torch.set_rng_state(self.order)
            self.order = None
        self.epoch = torch.get_rng_state()

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Add the sums since the last logged line and the lengths of the logs to a checkpoint, and seal it."""
        trainer: Any = self.trainer
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        losses = trainer.accelerator.gather(trainer._tr_loss.reshape(1)).tolist()  # waits for all
        if state.is_world_process_zero:
            # TRL gathers metrics before it sums them, so that all processes have the same.
            metrics = dict(trainer._metrics["train"]) if hasattr(trainer, "_metrics") else None
            interval = {"losses": losses, "since": trainer._globalstep_last_logged, "metrics": metrics}
            (folder / "interval.json").write_text(json.dumps(interval), encoding="utf-8")
            save_file({"generator": self.epoch}, folder / ORDER)
            (folder / "logs.json").write_text(json.dumps(self.run.written()), encoding="utf-8")
            seal(folder)
        ranks.wait()
