"""Take a language model from base to instruction-tuned, one stage at a time."""

import importlib
from typing import Any

from rlhf.hub import telemetry

__version__ = "0.1.0"

# Public name -> the module that defines it; imported on first use, so that `import rlhf` costs no torch.
_PUBLIC = {
    "PPOTrainer": "rlhf.ppo",
    "CompositeReward": "rlhf.rewards",
    "Ensemble": "rlhf.rewards",
    "RemoteReward": "rlhf.rewards",
    "RewardFunction": "rlhf.rewards",
    "RewardModel": "rlhf.rewards",
    "RewardTerm": "rlhf.rewards",
    "Run": "rlhf.runs.run",
    "RlhfError": "rlhf.errors",
    "generate": "rlhf.modeling.generation",
    "load": "rlhf.data",
}
__all__ = [*_PUBLIC, "__version__"]

telemetry.off()  # before anything that reads its variable when it is imported


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'rlhf' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
