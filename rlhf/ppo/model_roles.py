"""The models of policy, reference, critic and reward model: adapters on one frozen base, or separate models.

Both compute the same from the same weights; docs/ppo.md lists when one base is possible and its savings.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from rlhf.config import AdapterKind, CriticKind, PPOStage, Settings
from rlhf.console import console
from rlhf.errors import ConfigError, LineageError, ModelError
from rlhf.modeling import adapters, loading
from rlhf.modeling.generation import seeded
from rlhf.modeling.seeding import derive
from rlhf.ppo.critic import Critic, ValueHead
from rlhf.ppo.shared_base import POLICY, Role, SharedBase, adds_up, has_head, shares
from rlhf.runs.parents import Parent


class Separate:
    """A separate model for each role, loaded on first use; the reference of an adapted policy is its base."""

    def __init__(self, settings: Settings, parents: Mapping[str, Parent], start: str, tokenizer: Any):
        self.settings, self.parents, self.start, self.tokenizer = settings, parents, start, tokenizer
        self.stage = settings.stage_as(PPOStage)
        self.loading = adapters.quantization(settings.adapter)

    @cached_property
    def policy(self) -> Any:
        """The policy, with a new adapter on top if the settings name one."""
        policy = loading.load_policy(self.parents["policy"], self.settings.model, self.tokenizer, **self.loading)
        with drawn(self.settings, "policy"):
            return adapters.adapt(policy, self.settings.adapter, adapters.TaskType.CAUSAL_LM)

    @cached_property
    def reference(self) -> Any | None:
        """The reference, or the teacher; None stands for the policy with its adapter disabled."""
        if "teacher" in self.parents:
            return teacher(self.settings, self.parents, self.tokenizer)
        if self.settings.adapter.kind is not AdapterKind.none:
            return None
        return loading.load_policy(self.parents["policy"], self.settings.model, self.tokenizer).requires_grad_(False)

    @cached_property
    def critic(self) -> nn.Module | None:
        """The critic: a head on the policy, or a separate model that starts from ``start``; None without GAE."""
        if not self.stage.has_critic:
            return None
        if self.stage.critic_kind is CriticKind.value_head:
            return head(self.stage, self.policy)
        critic = loading.load_reward_model(
            self.parents[self.start], self.settings.model, self.tokenizer, new_head="zero", **self.loading
        )
        with drawn(self.settings, "critic"):
            return Critic(adapters.adapt(critic, self.settings.adapter, adapters.TaskType.SEQ_CLS))

    def reward_model(self, role: str) -> None:
        """Return None: each reward model is a separate model."""


class OneBase:
    """Roles as adapters on one base: each has the frozen adapters of its parents; policy and critic train a new one.

    The critic's new adapter is added to those that it starts from, so that its first values are those of a copy.

    Args:
        base: the model that the roles share, loaded on first use.
        chains: role -> its adapters on the base, for the policy, the start of the critic, and reward models.
    """

    def __init__(
        self,
        settings: Settings,
        parents: Mapping[str, Parent],
        base: Parent,
        chains: Mapping[str, list[Parent]],
        tokenizer: Any,
    ):
        self.settings, self.parents, self.tokenizer = settings, parents, tokenizer
        self.stage, self.base, self.chains = settings.stage_as(PPOStage), base, chains
        self.loading = adapters.quantization(settings.adapter)
        self._heads: dict[str, Tensor | None] = {}

    @cached_property
    def shared(self) -> SharedBase:
        """The base with the policy's new adapter."""
        base = loading.load_policy(self.base, self.settings.model, self.tokenizer, **self.loading)
        with drawn(self.settings, "policy"):
            adapted = adapters.adapt(base, self.settings.adapter, adapters.TaskType.CAUSAL_LM)
        assert isinstance(adapted, PeftModel)  # one base needs an adapter: see assign
        return SharedBase(adapted)

    @cached_property
    def policy(self) -> Role:
        """The policy; only its last adapter is trained."""
        return self.shared.language_model([*self._adapters("policy"), POLICY], train=True)

    @cached_property
    def reference(self) -> Any:
        """The reference: the policy without its new adapter, or the teacher, a separate model."""
        if "teacher" in self.parents:
            return teacher(self.settings, self.parents, self.tokenizer)
        return self.shared.language_model(self._adapters("policy"))

    @cached_property
    def critic(self) -> Role | ValueHead | None:
        """The critic: a head on the policy, or a new adapter and head on those of its start; None without GAE."""
        if not self.stage.has_critic:
            return None
        if self.stage.critic_kind is CriticKind.value_head:
            return head(self.stage, self.shared.causal)
        frozen = self._adapters("critic")
        with drawn(self.settings, "critic"):
            config = adapters.lora(self.settings.adapter, adapters.TaskType.CAUSAL_LM, self.shared.causal)
            assert config is not None  # one base needs an adapter: see assign
            self.shared.add("critic", config)
        return self.shared.critic([*frozen, "critic"], self._head("critic"))

    def reward_model(self, role: str) -> Role | None:
        """Return the reward model of ``role``; None if it is not an adapter on the base."""
        if role not in self.chains:
            return None
        return self.shared.classifier(self._adapters(role), self._head(role))

    def _adapters(self, role: str) -> list[str]:
        """Return the names of the role's frozen adapters; each is loaded once and shared by all roles that have it."""
        names = []
        for parent in self.chains[role]:
            folder = loading.adapter_folder(parent)
            assert parent.digest  # every model above the base is an adapter: see loading.ancestry
            assert folder
            names.append(f"adapter_{parent.digest[:16]}")
            if names[-1] not in self._heads:
                self._heads[names[-1]] = self.shared.load(names[-1], folder)
        return names

    def _head(self, role: str) -> Tensor:
        """Return the head (1, h) of the role's last adapter; zeros for a critic that starts from a policy."""
        names = self._adapters(role)
        head = self._heads[names[-1]] if names else None
        return torch.zeros(1, self.shared.causal.config.hidden_size) if head is None else head


def assign(settings: Settings, parents: Mapping[str, Parent], tokenizer: Any) -> OneBase | Separate:
    """Return the roles on one base if that is possible, decided from the records of the runs, before loading weights.

    Prints one line if an adapter is configured and the roles, or a reward model, cannot share the base.

    Raises:
        ConfigError: ``stage.share_base_model=true``, but policy and critic do not share a base.
        LineageError: ``stage.critic`` or ``stage.teacher`` has another vocabulary than the policy, or the parent of an
            adapter is missing.
    """
    if "teacher" in parents and not _reads(settings, parents["teacher"], tokenizer):
        raise LineageError(
            f"stage.teacher={parents['teacher'].path} has another vocabulary than "
            f"stage.policy={parents['policy'].path}, whose tokens it reads: use a teacher with the same tokenizer"
        )
    start = critic_start(settings, parents, tokenizer)
    separate = Separate(settings, parents, start, tokenizer)
    asked = separate.stage.share_base_model
    if settings.adapter.kind is AdapterKind.none or asked is False:
        return separate
    try:
        base, chains = in_common(settings, parents, start, tokenizer)
    except ModelError as obstacle:
        if asked:
            raise ConfigError(
                f"stage.share_base_model=true is not possible, since {obstacle}: leave it out"
            ) from obstacle
        _say(f"each role is a separate model, since {obstacle}")
        return separate
    for role in judges(parents):
        if role not in chains:
            _say(
                f"{parents[role].path} is not an adapter on {base.path}, which the other roles share, and is loaded "
                "separately"
            )
    return OneBase(settings, parents, base, chains, tokenizer)


def teacher(settings: Settings, parents: Mapping[str, Parent], tokenizer: Any) -> Any:
    """Return the teacher, a frozen model with merged adapters."""
    return loading.load_policy(parents["teacher"], settings.model, tokenizer).requires_grad_(False)


def critic_start(settings: Settings, parents: Mapping[str, Parent], tokenizer: Any) -> str:
    """Return the role that the critic starts from: "critic", or the first reward model with the policy's vocabulary.

    Otherwise it starts from the policy with a zero head, and a line reports it, unless ``stage.critic_kind`` is a head.
    Without a critic the role is the policy.

    Raises:
        LineageError: ``stage.critic`` has another vocabulary than the policy.
    """
    stage = settings.stage_as(PPOStage)
    if stage.critic_kind is CriticKind.value_head or not stage.has_critic:
        return "policy"
    scoring = [role for role in judges(parents) if role.partition(".")[0] in ("reward", "rewards")]
    roles = ["critic"] if "critic" in parents else scoring
    found = next((role for role in roles if _reads(settings, parents[role], tokenizer)), None)
    if found is None and "critic" in parents:
        raise LineageError(
            f"stage.critic={parents['critic'].path} has another vocabulary than "
            f"stage.policy={parents['policy'].path}, whose tokens the critic reads: "
            "name a run on the same base, or set stage.critic=null"
        )
    if found is None:
        _say("no reward model reads the policy's tokens: the critic starts from the policy with a zero head")
    return found or "policy"


def judges(parents: Mapping[str, Parent]) -> list[str]:
    """Return the roles of reward models, including those of the gold reward and of shadows."""
    return [role for role in parents if role.partition(".")[0] in ("reward", "rewards", "gold", "shadows")]


def in_common(
    settings: Settings, parents: Mapping[str, Parent], start: str, tokenizer: Any
) -> tuple[Parent, dict[str, list[Parent]]]:
    """Return the last ancestor shared by policy, critic and the reward models on their base, and each role's adapters.

    Raises:
        ModelError: policy and critic do not share a base, or its architecture or their adapters cannot be shared.
    """
    lines = {"policy": loading.ancestry(parents["policy"]), "critic": loading.ancestry(parents[start])}
    root = lines["policy"][0]
    if not _same(root, lines["critic"][0]):
        raise ModelError(f"{parents[start].path} is not an adapter on a parent of {parents['policy'].path}")
    for role in judges(parents):
        line = loading.ancestry(parents[role])
        fits = _same(root, line[0]) and has_head(line[-1]) and all(map(adds_up, line[1:]))
        if fits and _reads(settings, parents[role], tokenizer):
            lines[role] = line
    # An adapter merged into 4-bit weights would be lost to rounding: on a quantized base all adapters stay separate.
    length = 1 if settings.adapter.kind is AdapterKind.qlora else _shared_length(list(lines.values()))
    for parent in (*lines["policy"][length:], *lines["critic"][length:]):
        if not adds_up(parent):
            raise ModelError(f"{parent.path} is an adapter of a type that cannot be combined with others")
    config = loading.config(root, settings.model)
    if not shares(config):
        raise ModelError(f"the classifier of {config.model_type} is not its language model's backbone with a head")
    return lines["policy"][length - 1], {role: line[length:] for role, line in lines.items()}


def _shared_length(lines: list[list[Parent]]) -> int:
    """Return how many generations, counted from the first, are the same in every line."""
    length = 0
    for generation in zip(*lines, strict=False):
        if not all(_same(generation[0], other) for other in generation):
            break
        length += 1
    return length


def _same(one: Parent, other: Parent) -> bool:
    return one.digest is not None and one.digest == other.digest


def _reads(settings: Settings, parent: Parent, tokenizer: Any) -> bool:
    return loading.load_tokenizer(parent, settings.model).get_vocab() == tokenizer.get_vocab()


def head(stage: PPOStage, policy: Any) -> ValueHead:
    """Return a critic on ``policy``'s trunk."""
    return ValueHead(policy.config.get_text_config().hidden_size, detached=stage.value_detached)


def drawn(settings: Settings, what: str) -> AbstractContextManager:
    """Return a context in which new weights are drawn from a separate stream, independent of earlier draws."""
    return seeded(derive(settings.seed, "new weights", what))


def _say(sentence: str) -> None:
    console.print(f"ppo: {sentence}", highlight=False, soft_wrap=True)
