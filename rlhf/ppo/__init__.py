"""Proximal policy optimization for language models: pure functions on tensors, and one class that holds state.

from rlhf.ppo import Critic, PPOTrainer, settings
trainer = PPOTrainer(policy, reference, Critic(reward_model), tokenizer, reward, prompts, settings(updates=10), seed=0)
trainer.train()
"""

import difflib
from dataclasses import fields
from enum import Enum
from typing import Any, TypeVar, get_type_hints

import yaml

from rlhf.config import PPOStage, RewardTermSettings, RolloutSettings, SentinelSettings
from rlhf.config.rewards import usual_term
from rlhf.config.rules import require, require_type
from rlhf.errors import ConfigError
from rlhf.ppo.advantages import gae
from rlhf.ppo.critic import Critic, ValueHead
from rlhf.ppo.kl import k1, k2, k3, shape_rewards
from rlhf.ppo.losses import clipped_policy_loss, clipped_value_loss
from rlhf.ppo.rollout import Rollout
from rlhf.ppo.sentinel import Diagnosis, Sentinel
from rlhf.ppo.trainer import PPOTrainer
from rlhf.storage.paths import bundled
from rlhf.storage.renamed import new_name

BY_ADVANTAGE = ("kl_in", "kl_estimator", "ratio", "loss_mean", "whiten_advantages")
Group = TypeVar("Group", SentinelSettings, RolloutSettings, PPOStage)


def settings(**overrides: Any) -> PPOStage:
    """Return the settings of conf/stage/ppo.yaml with ``overrides``, without Hydra.

    Pass an enum by its name, ``missing_eos="keep"``, and the groups as dicts, ``sentinel={"action": "stop"}``.

    Raises:
        ConfigError: an override is not a setting of PPO, or a value has the wrong type or is out of range.
    """
    values = yaml.safe_load((bundled("conf") / "stage" / "ppo.yaml").read_text(encoding="utf-8"))
    for name in ("learning_rate", "critic_learning_rate"):  # of ${times:rate,factor} only the rate
        values[name] = values[name].removeprefix("${times:").partition(",")[0]
    advantage = overrides.get("advantage", values["advantage"])
    for name in BY_ADVANTAGE:
        values[name] = _by(getattr(advantage, "value", advantage), values[name])
    values["gold"] = None  # PPOTrainer takes the function; the file names the data set's
    watching = _made(SentinelSettings, "stage.sentinel", values["sentinel"], overrides.get("sentinel", {}))
    drawing = _made(RolloutSettings, "stage.rollout", values["rollout"], overrides.get("rollout", {}))
    return _made(PPOStage, "stage", values, overrides | {"sentinel": watching, "rollout": drawing})


def _by(advantage: str, value: str) -> Any:
    """Return the default that ``${by:${.advantage},usual,{estimator:other}}`` selects."""
    inner = value.removeprefix("${by:${.advantage},").removesuffix("}")
    usual, _, others = inner.partition(",")
    found = dict(pair.split(":") for pair in others.strip("{}").split(","))
    return yaml.safe_load(found.get(advantage, usual))


def _made(kind: type[Group], key: str, values: dict[str, Any], overrides: dict[str, Any]) -> Group:
    """Return a ``kind`` with the values of the YAML file and ``overrides``."""
    hints = get_type_hints(kind)
    names = {field.name: hints[field.name] for field in fields(kind)}
    for name in overrides:
        if (new := new_name(f"{key}.{name}")) != f"{key}.{name}":
            raise ConfigError(f"{name} is called {new.rpartition('.')[2]} now")
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            raise ConfigError(f"there is no setting {name}" + "".join(f"; did you mean {other}?" for other in close))
    # PyYAML follows YAML 1.1, in which 3e-6 without a decimal point is a string.
    given = {name: float(values[name]) if hint is float else values[name] for name, hint in names.items()} | overrides
    return kind(**{name: _typed(f"{key}.{name}", given[name], hint) for name, hint in names.items()})


def _typed(key: str, value: Any, hint: Any) -> Any:
    """Return ``value`` as an instance of the type ``hint``, converted as Hydra would."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        choices = [choice.value for choice in hint]
        require(isinstance(value, hint) or value in choices, key, value, f"be one of {', '.join(choices)}")
        return hint(value)
    if hint is RewardTermSettings:
        return value if isinstance(value, hint) else usual_term(value)
    require_type(key, value, hint)
    return value


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
