"""Take a language model from base to instruction-tuned, one stage at a time."""

import importlib
from typing import TYPE_CHECKING, Any

from rlhf.hub import telemetry

if TYPE_CHECKING:
    from rlhf.data import load_rows
    from rlhf.errors import RlhfError
    from rlhf.modeling.generation import generate
    from rlhf.ppo import Critic, PPOTrainer, clipped_policy_loss, clipped_value_loss, gae, shape_rewards
    from rlhf.preference.losses import bradley_terry, plackett_luce
    from rlhf.rewards import CompositeReward, Ensemble, RemoteReward, RewardFunction, RewardModel, RewardTerm
    from rlhf.runs.run import Run

__version__ = "0.1.0"

# Public name -> module, which is imported on first use, so that `import rlhf` does not import torch.
_PUBLIC = {
    "CompositeReward": "rlhf.rewards",
    "Critic": "rlhf.ppo",
    "Ensemble": "rlhf.rewards",
    "PPOTrainer": "rlhf.ppo",
    "RemoteReward": "rlhf.rewards",
    "RewardFunction": "rlhf.rewards",
    "RewardModel": "rlhf.rewards",
    "RlhfError": "rlhf.errors",
    "Run": "rlhf.runs.run",
    "RewardTerm": "rlhf.rewards",
    "bradley_terry": "rlhf.preference.losses",
    "clipped_policy_loss": "rlhf.ppo",
    "clipped_value_loss": "rlhf.ppo",
    "gae": "rlhf.ppo",
    "generate": "rlhf.modeling.generation",
    "load_rows": "rlhf.data",
    "plackett_luce": "rlhf.preference.losses",
    "shape_rewards": "rlhf.ppo",
}
__all__ = [*_PUBLIC, "__version__"]

telemetry.off()  # before the import of a library that reads its environment variable then


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'rlhf' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
