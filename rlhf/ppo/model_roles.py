"""Who plays policy, reference, critic and reward model: adapters on one frozen base, or models of their own.

Both compute the same from the same weights; docs/ppo.md lists when one base is possible and its savings.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.config import AdapterKind, CriticKind, Settings
from rlhf.console import console
from rlhf.errors import ConfigError, LineageError, ModelError
from rlhf.modeling import adapters, loading
from rlhf.modeling.generation import seeded
from rlhf.modeling.seeding import derive
from rlhf.ppo.critic import Critic, ValueHead
from rlhf.ppo.shared_base import POLICY, Role, SharedBase, adds_up, has_head, shares
from rlhf.runs.parents import Parent


class Separate:
    """A model for each role, each loaded when it is asked for; with an adapter the reference is the policy without."""

    def __init__(self, settings: Settings, parents: Mapping[str, Parent], start: str, tokenizer: Any):
        self.settings, self.parents, self.start, self.tokenizer = settings, parents, start, tokenizer
        self.loading = adapters.quantization(settings.adapter)

    @cached_property
    def policy(self) -> Any:
        policy = loading.load_policy(self.parents["policy"], self.settings.model, self.tokenizer, **self.loading)
        with drawn(self.settings, "policy"):
            return adapters.adapt(policy, self.settings.adapter, adapters.TaskType.CAUSAL_LM)

    @cached_property
    def reference(self) -> Any | None:
        """None: the policy with its adapter switched off."""
        if self.settings.adapter.kind is not AdapterKind.none:
            return None
        return loading.load_policy(self.parents["policy"], self.settings.model, self.tokenizer).requires_grad_(False)

    @cached_property
    def critic(self) -> nn.Module:
        if self.settings.stage.critic_kind is CriticKind.value_head:
            return head(self.settings, self.policy)
        critic = loading.load_reward_model(
            self.parents[self.start], self.settings.model, self.tokenizer, new_head="zero", **self.loading
        )
        with drawn(self.settings, "critic"):
            return Critic(adapters.adapt(critic, self.settings.adapter, adapters.TaskType.SEQ_CLS))

    def reward_model(self, role: str) -> None:
        """No reward model is part of another role's."""


class OneBase:
    """Every role wears the adapters that it descends from, frozen, and policy and critic one of their own on top.

    The critic's is new, beside those that it starts from: it begins with the values that a copy of them would give.

    Args:
        base: what the roles have in common, loaded when the first of them is asked for.
        chains: role -> its adapters on that, of the policy, of what the critic starts from, and of reward models.
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
        self.base, self.chains = base, chains
        self.loading = adapters.quantization(settings.adapter)
        self._heads: dict[str, Tensor | None] = {}

    @cached_property
    def shared(self) -> SharedBase:
        base = loading.load_policy(self.base, self.settings.model, self.tokenizer, **self.loading)
        with drawn(self.settings, "policy"):
            return SharedBase(adapters.adapt(base, self.settings.adapter, adapters.TaskType.CAUSAL_LM))

    @cached_property
    def policy(self) -> Role:
        return self.shared.language_model([*self._wears("policy"), POLICY], train=True)

    @cached_property
    def reference(self) -> Role:
        return self.shared.language_model(self._wears("policy"))

    @cached_property
    def critic(self) -> Role | ValueHead:
        if self.settings.stage.critic_kind is CriticKind.value_head:
            return head(self.settings, self.shared.causal)
        worn = self._wears("critic")
        with drawn(self.settings, "critic"):
            config = adapters.lora(self.settings.adapter, adapters.TaskType.CAUSAL_LM, self.shared.causal)
            self.shared.add("critic", config)
        return self.shared.critic([*worn, "critic"], self._head("critic"))

    def reward_model(self, role: str) -> Role | None:
        """The reward model of ``role``; None where it is no adapter on the base."""
        if role not in self.chains:
            return None
        return self.shared.classifier(self._wears(role), self._head(role))

    def _wears(self, role: str) -> list[str]:
        """The names of the role's adapters on the base, where each is loaded once, whoever wears it."""
        names = []
        for parent in self.chains[role]:
            names.append(f"adapter_{parent.digest[:16]}")
            if names[-1] not in self._heads:
                self._heads[names[-1]] = self.shared.load(names[-1], loading.adapter_folder(parent))
        return names

    def _head(self, role: str) -> Tensor:
        """That of the role's last adapter; a policy has none, and a critic that starts from it has a head of zeros."""
        worn = self._wears(role)
        head = self._heads[worn[-1]] if worn else None
        return torch.zeros(1, self.shared.causal.config.hidden_size) if head is None else head


def assign(settings: Settings, parents: Mapping[str, Parent], tokenizer: Any) -> OneBase | Separate:
    """Decide from the records of the runs, before any weight is loaded, whether there is one base.

    Where an adapter is asked for and there is none, or not for a reward model, this is said in one line.

    Raises:
        ConfigError: ``stage.share_base_model=true``, and policy and critic have no base in common.
        LineageError: ``stage.critic`` has another vocabulary than the policy, or a run that an adapter needs is gone.
    """
    start = critic_start(settings, parents, tokenizer)
    separate = Separate(settings, parents, start, tokenizer)
    asked = settings.stage.share_base_model
    if settings.adapter.kind is AdapterKind.none or asked is False:
        return separate
    try:
        base, chains = in_common(settings, parents, start, tokenizer)
    except ModelError as obstacle:
        if asked:
            raise ConfigError(
                f"stage.share_base_model=true is not possible, since {obstacle}: leave it out"
            ) from obstacle
        _say(f"each role has a model of its own, since {obstacle}")
        return separate
    for role in judges(parents):
        if role not in chains:
            _say(
                f"{parents[role].path} is no adapter on {base.path}, which the other roles share, and is loaded beside"
            )
    return OneBase(settings, parents, base, chains, tokenizer)


def critic_start(settings: Settings, parents: Mapping[str, Parent], tokenizer: Any) -> str:
    """What the critic starts from: ``stage.critic``, else the first reward model that reads the policy's tokens.

    Where none does, or nothing that scores is a model, it is the policy under a head of zeros, and this is said.
    A critic that is a head on the policy starts so by its setting.

    Raises:
        LineageError: ``stage.critic`` has another vocabulary than the policy.
    """
    if settings.stage.critic_kind is CriticKind.value_head:
        return "policy"
    scoring = [role for role in judges(parents) if role.partition(".")[0] != "gold"]
    roles = ["critic"] if "critic" in parents else scoring
    found = next((role for role in roles if _reads(settings, parents[role], tokenizer)), None)
    if found is None and "critic" in parents:
        raise LineageError(
            f"stage.critic={parents['critic'].path} has another vocabulary than "
            f"stage.policy={parents['policy'].path}, whose tokens the critic reads: "
            "give a run that descends from the same base, or stage.critic=null"
        )
    if found is None:
        _say("the critic starts from the policy, under a head of zeros, since no reward model reads its tokens")
    return found or "policy"


def judges(parents: Mapping[str, Parent]) -> list[str]:
    """The roles of reward models, those of the gold reward included."""
    return [role for role in parents if role.partition(".")[0] in ("reward", "rewards", "gold")]


def in_common(
    settings: Settings, parents: Mapping[str, Parent], start: str, tokenizer: Any
) -> tuple[Parent, dict[str, list[Parent]]]:
    """The longest line of descent that policy, critic and the reward models on their base share, and what is on top.

    Raises:
        ModelError: policy and critic have no base in common, or not one that can be shared.
    """
    lines = {"policy": loading.ancestry(parents["policy"]), "critic": loading.ancestry(parents[start])}
    root = lines["policy"][0]
    if not _same(root, lines["critic"][0]):
        raise ModelError(f"{parents[start].path} is no adapter on a model that {parents['policy'].path} descends from")
    for role in judges(parents):
        line = loading.ancestry(parents[role])
        fits = _same(root, line[0]) and has_head(line[-1]) and all(map(adds_up, line[1:]))
        if fits and _reads(settings, parents[role], tokenizer):
            lines[role] = line
    # Merged into four bits an adapter would be rounded away: on a quantised base all of them stay beside it.
    length = 1 if settings.adapter.kind is AdapterKind.qlora else _shared_length(list(lines.values()))
    for parent in (*lines["policy"][length:], *lines["critic"][length:]):
        if not adds_up(parent):
            raise ModelError(f"{parent.path} is an adapter of a kind that cannot be added to others")
    config = loading.config(root, settings.model)
    if not shares(config):
        raise ModelError(f"a classifier of the architecture {config.model_type} is not its language model under a head")
    return lines["policy"][length - 1], {role: line[length:] for role, line in lines.items()}


def _shared_length(lines: list[list[Parent]]) -> int:
    """How many generations from the first on are the same in every line."""
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


def head(settings: Settings, policy: Any) -> ValueHead:
    """The critic on ``policy``'s trunk."""
    return ValueHead(policy.config.get_text_config().hidden_size, detached=settings.stage.value_detached)


def drawn(settings: Settings, what: str) -> AbstractContextManager:
    """New weights come from a stream of their own: the same ones whatever else was drawn before."""
    return seeded(derive(settings.seed, "new weights", what))


def _say(sentence: str) -> None:
    console.print(f"ppo: {sentence}", highlight=False, soft_wrap=True)
