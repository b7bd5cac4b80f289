"""Proximal policy optimization for language models: pure functions on tensors, and one class that holds state.

from rlhf.ppo import Critic, PPOTrainer, settings
trainer = PPOTrainer(policy, reference, Critic(reward_model), tokenizer, reward, prompts, settings(updates=10), seed=0)
trainer.train()
"""

from typing import Any

import yaml

from rlhf.config import PPOStage
from rlhf.config.rules import read
from rlhf.ppo.advantages import gae
from rlhf.ppo.critic import Critic, ValueHead
from rlhf.ppo.kl import k1, k2, k3, shape_rewards
from rlhf.ppo.losses import clipped_policy_loss, clipped_value_loss
from rlhf.ppo.rollout import Rollout
from rlhf.ppo.sentinel import Diagnosis, Sentinel
from rlhf.ppo.trainer import PPOTrainer
from rlhf.storage.paths import bundled


def settings(**overrides: Any) -> PPOStage:
    """Return the settings of conf/stage/ppo.yaml with ``overrides``, without Hydra.

    Pass an enum by its name, ``missing_eos="keep"``, and the groups as dicts, ``sentinel={"action": "stop"}``.

    Raises:
        ConfigError: an override is not a setting of PPO, or a value has the wrong type or is out of range.
    """
    values = yaml.safe_load((bundled("conf") / "stage" / "ppo.yaml").read_text(encoding="utf-8"))
    for name in ("learning_rate", "critic_learning_rate"):  # of ${times:rate,factor} only the rate
        values[name] = values[name].removeprefix("${times:").partition(",")[0]
    taught, usual = values["advantage"].removesuffix("}").split(",")[1:]
    values["advantage"] = usual if overrides.get("teacher") is None else taught
    if overrides.get("teacher") is not None:
        values["reward"] = None
    advantage = overrides.get("advantage", values["advantage"])
    for name, value in values.items():
        if str(value).startswith("${by:"):
            values[name] = _by(getattr(advantage, "value", advantage), value)
    values["gold"] = None  # PPOTrainer takes the function; the file names the data set's
    return read(PPOStage, "stage", values, overrides)


def _by(advantage: str, value: str) -> Any:
    """Return the default that ``${by:${.advantage},usual,{estimator:other}}`` selects."""
    inner = value.removeprefix("${by:${.advantage},").removesuffix("}")
    usual, _, others = inner.partition(",")
    found = dict(pair.split(":") for pair in others.strip("{}").split(","))
    return yaml.safe_load(found.get(advantage, usual))


__all__ = [
    "Critic",
    "Diagnosis",
    "PPOTrainer",
    "Rollout",
    "Sentinel",
    "ValueHead",
    "clipped_policy_loss",
    "clipped_value_loss",
    "gae",
    "k1",
    "k2",
    "k3",
    "settings",
    "shape_rewards",
]
