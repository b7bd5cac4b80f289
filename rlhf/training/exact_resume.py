"""What makes the checkpoints of a transformers Trainer exact: a run that is resumed ends as one that was left alone."""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from rlhf.hardware import ranks
from rlhf.runs.run import Run
from rlhf.storage.checksums import number, seal


def written_at(last: Path | None) -> dict[str, int] | None:
    """How many lines of each log there were when the checkpoint was written."""
    return None if last is None else json.loads((last / "logs.json").read_text(encoding="utf-8"))


def take_up_if_trained(trainer: Trainer, last: Path) -> bool:
    """Where the checkpoint is of the last step, load its weights, or the best ones where those are asked for.

    ``trainer.train`` would make a step too many.
    """
    state = TrainerState.load_from_json(str(last / "trainer_state.json"))
    if state.global_step < state.max_steps:
        return False
    best = state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    trainer._load_from_checkpoint(best or str(last))
    trainer.state = state
    return True


class Keeper(TrainerCallback):
    """Makes a Trainer's checkpoints exact and tells torn ones.

    What was summed up since the last logged line is in no checkpoint of transformers': a resumed run would log
    averages over a part of that interval. It is written beside it here, of all processes, and read again: each takes
    up its own part, or, where they are another number now, the mean of all.
    """

    def __init__(self, trainer: Trainer, run: Run, last: Path | None):
        self.trainer, self.run, self.last = trainer, run, last

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            # They are torn or unfinished, and transformers, which counts by number, would delete the new ones for them.
            for folder in Path(args.output_dir).glob("checkpoint-*"):
                if self.last is None or number(folder) > number(self.last):
                    shutil.rmtree(folder)
        if self.last is not None:
            interval = json.loads((self.last / "interval.json").read_text(encoding="utf-8"))
            losses = interval["losses"]
            same = len(losses) == args.world_size
            self.trainer._tr_loss += losses[args.process_index] if same else sum(losses) / len(losses)
            self.trainer._globalstep_last_logged = interval["since"]
            if interval["metrics"] is not None:  # TRL's trainers alone have them
                self.trainer._metrics["train"].update(interval["metrics"])

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        losses = self.trainer.accelerator.gather(self.trainer._tr_loss.reshape(1)).tolist()  # waits for all
        if state.is_world_process_zero:
            # TRL gathers what it measures before it adds it up: each process has the same.
            metrics = dict(self.trainer._metrics["train"]) if hasattr(self.trainer, "_metrics") else None
            interval = {"losses": losses, "since": self.trainer._globalstep_last_logged, "metrics": metrics}
            (folder / "interval.json").write_text(json.dumps(interval), encoding="utf-8")
            (folder / "logs.json").write_text(json.dumps(self.run.written()), encoding="utf-8")
            seal(folder)
        ranks.wait()
