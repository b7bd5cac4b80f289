"""Proximal policy optimisation for language models: pure functions on tensors, and one class that holds state.

from rlhf.ppo import Critic, PPOTrainer, settings
trainer = PPOTrainer(policy, reference, Critic(reward_model), tokenizer, reward, prompts, settings(updates=10), seed=0)
trainer.train()
"""

from dataclasses import fields
from typing import Any

import yaml

from rlhf.config import MissingEOS, PPOStage
from rlhf.config.rewards import usual_term
from rlhf.paths import bundled
from rlhf.ppo.advantages import gae
from rlhf.ppo.critic import Critic
from rlhf.ppo.kl import k1, k2, k3, shape_rewards
from rlhf.ppo.losses import clipped_policy_loss, clipped_value_loss
from rlhf.ppo.rollout import Rollout
from rlhf.ppo.trainer import PPOTrainer


def settings(**overrides: Any) -> PPOStage:
    """The settings of conf/stage/ppo.yaml, without Hydra.

    Raises:
        TypeError: an override is no setting of PPO.
        ConfigError: a value is out of range.
    """
    values = yaml.safe_load((bundled("conf") / "stage" / "ppo.yaml").read_text(encoding="utf-8"))
    del values["defaults"]
    values["gold"] = None  # PPOTrainer is given the function itself; the file names the data's
    for field in fields(PPOStage):
        # YAML 1.1, which PyYAML reads, takes 3e-6 for a text: a number wants a point there.
        if isinstance(values[field.name], str) and field.type is float:
            values[field.name] = float(values[field.name])
    values |= overrides
    typed = {"missing_eos": MissingEOS(values["missing_eos"]), "term": usual_term(values["term"])}
    return PPOStage(**values | typed)


__all__ = [
    "Critic",
    "PPOTrainer",
    "Rollout",
    "clipped_policy_loss",
    "clipped_value_loss",
    "gae",
    "k1",
    "k2",
    "k3",
    "settings",
    "shape_rewards",
]
