"""Proximal policy optimisation for language models: pure functions on tensors, and one class that holds state.

from rlhf.ppo import Critic, PPOTrainer, settings
trainer = PPOTrainer(policy, reference, Critic(reward_model), tokenizer, reward, prompts, settings(updates=10), seed=0)
trainer.train()
"""

from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import yaml

from rlhf.config import PPOStage
from rlhf.config.rewards import usual_term
from rlhf.paths import bundled
from rlhf.ppo.advantages import gae
from rlhf.ppo.critic import Critic
from rlhf.ppo.kl import k1, k2, k3, shape_rewards
from rlhf.ppo.losses import clipped_policy_loss, clipped_value_loss
from rlhf.ppo.rollout import Rollout
from rlhf.ppo.sentinel import Diagnosis, Sentinel
from rlhf.ppo.trainer import PPOTrainer


def settings(**overrides: Any) -> PPOStage:
    """The settings of conf/stage/ppo.yaml, without Hydra; those of the sentinel as ``sentinel={"action": "stop"}``.

    Raises:
        TypeError: an override is no setting of PPO.
        ConfigError: a value is out of range.
    """
    values = yaml.safe_load((bundled("conf") / "stage" / "ppo.yaml").read_text(encoding="utf-8"))
    del values["defaults"]
    values["gold"] = None  # PPOTrainer is given the function itself; the file names the data's
    sentinel = values["sentinel"] | overrides.get("sentinel", {})
    values |= overrides
    return _typed(PPOStage, values | {"sentinel": sentinel, "term": usual_term(values["term"])})


def _typed(kind: type, values: dict[str, Any]) -> Any:
    """``kind(**values)`` with enumerations, nested settings and numbers made of what YAML gives for them."""
    values = dict(values)
    for field in fields(kind):
        value, of = values.get(field.name), field.type
        if isinstance(value, dict) and is_dataclass(of):
            values[field.name] = _typed(of, value)
        elif isinstance(of, type) and issubclass(of, Enum):
            values[field.name] = of(value)
        # YAML 1.1, which PyYAML reads, takes 3e-6 for a text: a number wants a point there.
        elif isinstance(value, str) and of in (float, float | None):
            values[field.name] = float(value)
    return kind(**values)


__all__ = [
    "Critic",
    "Diagnosis",
    "PPOTrainer",
    "Rollout",
    "Sentinel",
    "clipped_policy_loss",
    "clipped_value_loss",
    "gae",
    "k1",
    "k2",
    "k3",
    "settings",
    "shape_rewards",
]
