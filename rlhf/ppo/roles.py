"""Who plays policy, reference, critic and reward model: adapters on one frozen base, or models of their own.

Both give the same numbers from the same weights; one base takes a quarter of the memory. README.md says when there is
one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from torch import nn

from rlhf import models
from rlhf.config import AdapterKind, Settings
from rlhf.errors import ConfigError, ModelError
from rlhf.generate import seeded
from rlhf.parents import Parent
from rlhf.ppo.critic import Critic
from rlhf.ppo.seeds import derive
from rlhf.ppo.shared import POLICY, SCORE, SharedBase, adds_up, shares
from rlhf.progress import console


class Roles(NamedTuple):
    """``reference`` is None where it is the policy with its adapter switched off."""

    policy: Any
    reference: Any | None
    critic: nn.Module
    reward_model: Any


class Common(NamedTuple):
    """A model that policy and reward model have in common, and the adapters that either has on top, in their order."""

    base: Parent
    policy: list[Parent]
    reward: list[Parent]


def build(settings: Settings, parents: Mapping[str, Parent], tokenizer: Any) -> Roles:
    """The four models that PPO starts from, on the device that ``hardware`` asks for.

    Raises:
        ConfigError: ``stage.one_base=true``, and it is not possible.
        ModelError: a model cannot be loaded.
    """
    common = find_common(settings, parents["policy"], parents["reward"])
    separated = common is None
    roles = separate(settings, parents, tokenizer) if separated else over_one_base(settings, common, tokenizer)
    roles.reward_model.to(models.device(settings.hardware))
    return roles


def separate(settings: Settings, parents: Mapping[str, Parent], tokenizer: Any) -> Roles:
    """A model for each role; with an adapter the reference is the policy without it."""
    model, adapter, loading = settings.model, settings.adapter, models.quantization(settings.adapter)
    reward = models.load_reward_model(parents["reward"], model, tokenizer).requires_grad_(False)
    policy = models.load_policy(parents["policy"], model, tokenizer, **loading)
    critic = models.load_reward_model(parents["reward"], model, tokenizer, **loading)
    reference = None
    if adapter.kind is AdapterKind.none:
        reference = models.load_policy(parents["policy"], model, tokenizer).requires_grad_(False)
    with _drawn(settings, "policy"):
        policy = models.adapt(policy, adapter, models.TaskType.CAUSAL_LM)
    with _drawn(settings, "critic"):
        critic = models.adapt(critic, adapter, models.TaskType.SEQ_CLS)
    return Roles(policy, reference, Critic(critic), reward)


def over_one_base(settings: Settings, common: Common, tokenizer: Any) -> Roles:
    """Every role wears what it descends from, frozen; policy and critic an adapter of their own on top.

    The critic's is new, beside the reward model's: it starts with the reward model's values, as on a copy of it.
    """
    adapter = settings.adapter
    base = models.load_policy(common.base, settings.model, tokenizer, **models.quantization(adapter))
    with _drawn(settings, "policy"):
        shared = SharedBase(models.adapt(base, adapter, models.TaskType.CAUSAL_LM))
    names, heads = {}, {}
    for parent in (*common.policy, *common.reward):
        if parent.digest not in names:
            names[parent.digest] = f"parent_{len(names)}"
            heads[parent.digest] = shared.load(names[parent.digest], Path(parent.model))
    start, judge = ([names[parent.digest] for parent in chain] for chain in (common.policy, common.reward))
    with _drawn(settings, "critic"):
        shared.add("critic", models.lora(adapter, models.TaskType.CAUSAL_LM))
    head = heads[common.reward[-1].digest]
    return Roles(
        policy=shared.language_model([*start, POLICY], train=True),
        reference=shared.language_model(start),
        critic=shared.critic([*judge, "critic"], head),
        reward_model=shared.classifier(judge, head),
    )


def find_common(settings: Settings, policy: Parent, reward: Parent) -> Common | None:
    """The one base, found in the records of the runs before any weight is loaded; None for separate models.

    Where an adapter is asked for and one base is not possible, this is said in one line.

    Raises:
        ConfigError: ``stage.one_base=true``, and it is not possible.
    """
    asked = settings.stage.one_base
    if settings.adapter.kind is AdapterKind.none or asked is False:
        return None
    try:
        return _common(settings, policy, reward)
    except ModelError as obstacle:
        if asked:
            raise ConfigError(f"stage.one_base=true is not possible, since {obstacle}: leave it out") from obstacle
        console.print(f"ppo: each role has a model of its own, since {obstacle}", highlight=False, soft_wrap=True)
        return None


def _common(settings: Settings, policy: Parent, reward: Parent) -> Common:
    """As ``find_common``; ModelError where there is none."""
    ours, theirs = models.ancestry(policy), models.ancestry(reward)
    length = 0
    while length < min(len(ours), len(theirs)) and _same(ours[length], theirs[length]):
        length += 1
    if not length:
        raise ModelError(f"{reward.path} is no adapter on a model that {policy.path} descends from")
    # Merged into four bits an adapter would be rounded away: on a quantised base all of them stay beside it.
    merged = 1 if settings.adapter.kind is AdapterKind.qlora else length
    common = Common(ours[merged - 1], ours[merged:], theirs[merged:])
    for parent in (*common.policy, *common.reward):
        if not adds_up(Path(parent.model)):
            raise ModelError(f"{parent.path} is an adapter of a kind that cannot be added to others")
    if not theirs[length:] or not _has_head(Path(reward.model)):
        raise ModelError(f"{reward.path} has no head of its own")
    config = models.config(common.base, settings.model)
    if not shares(config):
        raise ModelError(f"a classifier of the architecture {config.model_type} is not its language model with a head")
    return common


def _same(one: Parent, other: Parent) -> bool:
    return one.digest is not None and one.digest == other.digest


def _has_head(folder: Path) -> bool:
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        return False
    with safe_open(file, framework="pt") as tensors:
        return SCORE in tensors.keys()  # noqa: SIM118 - a file of tensors is no mapping


def _drawn(settings: Settings, role: str) -> Any:
    """New weights from a stream of their own: the same whatever else was drawn before."""
    return seeded(derive(settings.seed, "adapter", role))
