"""Actions after a diagnosis of the sentinel: continue, stop, or return to a healthy checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.config import SentinelAction
from rlhf.errors import TrainingError
from rlhf.ppo import checkpoint
from rlhf.ppo.sentinel import STOPPED, BrokenError, Diagnosis

if TYPE_CHECKING:
    from rlhf.ppo.trainer import PPOTrainer


def heed(
    trainer: "PPOTrainer", diagnoses: list[Diagnosis], folder: Path | None, error: BrokenError | None = None
) -> bool:
    """Take the action of ``stage.sentinel.action``, record and report it; return whether the run was rolled back.

    Raises:
        TrainingError: the sentinel stopped the run, or ``error`` was not rolled back.
    """
    if not diagnoses:
        return False
    action, done, back_to = trainer.stage.sentinel.action, "warned", None
    if action is SentinelAction.rollback and folder and (error is None or error.name == "not_finite"):
        back_to = roll_back(trainer, folder)
        done = STOPPED if back_to is None else "rolled back"
    elif action is not SentinelAction.warn or error is not None:
        done = STOPPED
    diagnoses = [diagnosis._replace(action=done, back_to=back_to) for diagnosis in diagnoses]
    trainer.sentinel.raised += diagnoses
    if done == STOPPED and error is None and folder is not None:
        trainer.save(folder)
    for diagnosis in diagnoses:
        trainer.tell(diagnosis)
    if done == STOPPED:
        raise error or TrainingError(f"stopped at {diagnoses[0]}")
    return back_to is not None


def roll_back(trainer: "PPOTrainer", folder: Path) -> int | None:
    """Restore the newest checkpoint that was healthy for a whole window; return its update, or None without one.

    The learning rates are lower afterwards, so the run does not repeat the same steps.
    """
    limits, learner = trainer.stage.sentinel, trainer.learner
    place = checkpoint.healthy(folder, trainer.update - limits.window)
    if place is None or trainer.sentinel.rollbacks >= limits.rollbacks:
        return None
    trainer.update, state = checkpoint.restore(place, learner.saved, learner.optimizers)
    trainer.load_state(state)
    trainer.sentinel.roll_back(state["sentinel"])
    learner.rate_factor = trainer.sentinel.rate_factor
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        checkpoint.discard_after(folder, trainer.update)
    return trainer.update
