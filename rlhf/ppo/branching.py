"""The start of a run from a checkpoint of another run."""

from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.ppo import checkpoint

if TYPE_CHECKING:
    from rlhf.ppo.trainer import PPOTrainer


def branch(trainer: "PPOTrainer", place: Path, kl_coef: float) -> int:
    """Start from a checkpoint of another run under the settings of ``trainer``; return its update.

    Weights, optimizers, running statistics and the sentinel's history are those of the checkpoint. So is an adaptive β,
    unless ``stage.kl_coef`` is another than ``kl_coef``, that of the other run. An average starts from its weights.

    Raises:
        RunError: the checkpoint has weights of another model.
    """
    stage, learner, before = trainer.stage, trainer.learner, trainer.kl_coef
    trainer.update, state = checkpoint.restore(place, learner.modules, learner.optimizers)
    trainer.load_state(state)
    trainer.sentinel.history.seen = {name: list(seen) for name, seen in state["sentinel"]["seen"].items()}
    if learner.average is not None:
        learner.average.restart()
    if stage.kl_target is None or stage.kl_coef != kl_coef:
        trainer.kl_coef = before
    return trainer.update
