"""The reward that the settings of stage=ppo ask for, and its gold reward."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from rlhf.config import Normalization, PPOStage, RewardTermSettings, Settings
from rlhf.errors import LineageError
from rlhf.hardware.device import torch_device
from rlhf.modeling import loading
from rlhf.rewards.composition import CompositeReward, RewardTerm
from rlhf.rewards.ensemble import Ensemble
from rlhf.rewards.model import AdaptedRewardModel, RewardModel
from rlhf.rewards.normalization import FixedNormalizer, RunningNormalizer
from rlhf.rewards.protocol import RewardFunction, called
from rlhf.rewards.remote import RemoteReward
from rlhf.rewards.terms import FormatReward, LengthReward
from rlhf.runs.parents import Parent

AS_IT_IS = FixedNormalizer(0.0, 1.0)


def check_terms(stage: PPOStage) -> None:
    """Make every reward that needs no model, so that its mistakes are reported before a model is loaded.

    Raises:
        ConfigError: a function cannot be imported, or a remote reward's token is not set.
    """
    for term in (*stage.terms().values(), stage.gold_term()):
        if term is not None and term.function is not None:
            called(term.function)
        elif term is not None and term.remote.url is not None:
            RemoteReward(**vars(term.remote))


class Builder:
    """Makes rewards of terms; ``parents`` are the runs of the stage by role, ``tokenizer`` the policy's.

    ``shared`` gives the reward model of a role where it is part of another model, and None where it is to be loaded.
    """

    def __init__(
        self,
        settings: Settings,
        parents: Mapping[str, Parent],
        tokenizer: Any,
        shared: Callable[[str], Any | None] = lambda role: None,
    ):
        self.settings, self.parents, self.tokenizer, self.shared = settings, parents, tokenizer, shared

    def reward(self) -> tuple[RewardFunction, FixedNormalizer]:
        """What PPO maximises, and the statistics by which it normalises the sum.

        ``stage.reward`` alone is a plain RewardModel, normalised as ``stage.normalize_scores`` says when it is used;
        beside other terms it is a term of that normalization, and the sum is not normalised again.
        """
        stage = self.settings.stage
        found = self._all({f"rewards.{name}": term for name, term in stage.terms().items()})
        terms = {role.removeprefix("rewards."): term for role, term in found.items()}
        if stage.reward is None:
            return CompositeReward(terms), AS_IT_IS
        model, measured = self.model("reward"), statistics(self.parents["reward"])
        if stage.normalize_scores and measured is None:
            print(f"ppo: {stage.reward} is no run of stage=reward, so there is nothing to normalise its scores by")
        if not terms:
            return model, measured or AS_IT_IS
        return CompositeReward(
            {"reward": RewardTerm(model, 1.0, measured if stage.normalize_scores else None)} | terms
        ), AS_IT_IS

    def gold(self) -> RewardFunction | None:
        """What scores the same responses and trains nothing; None where there is none.

        Loading it draws from a stream of its own: what is made after it is the same without it.
        """
        term = self.settings.stage.gold_term()
        if term is None:
            return None
        with torch.random.fork_rng():
            gold = self._all({"gold": term})["gold"]
        return gold.function if gold.normalization is None else CompositeReward({"gold": gold})

    def _all(self, terms: Mapping[str, RewardTermSettings]) -> dict[str, RewardTerm]:
        """Terms by role, in their order; what needs no model is made first, so that its mistakes are told first."""
        order = sorted(terms, key=lambda role: bool(terms[role].runs()))
        made = {role: self.term(role, terms[role]) for role in order}
        return {role: made[role] for role in terms}

    def term(self, role: str, term: RewardTermSettings) -> RewardTerm:
        """
        Raises:
            ConfigError: a function cannot be imported, or a remote reward's token is not set.
            LineageError: ``normalization: stored`` of a run that holds no statistics.
        """
        if term.normalization is Normalization.running:
            return RewardTerm(self.function(role, term), term.weight, RunningNormalizer())
        if term.normalization is Normalization.none or term.ensemble.runs is not None:
            return RewardTerm(self.function(role, term), term.weight)  # an ensemble normalises each of its members
        return RewardTerm(self.function(role, term), term.weight, self._stored(role))

    def function(self, role: str, term: RewardTermSettings) -> RewardFunction:
        [source] = term.sources()
        if source == "run":
            return self.model(role)
        if source == "ensemble":
            return self.ensemble(role, term)
        if source == "function":
            return called(term.function)
        if source == "remote":
            return RemoteReward(**vars(term.remote))
        return LengthReward(**vars(term.length)) if source == "length" else FormatReward(**vars(term.format))

    def model(self, role: str) -> RewardModel:
        """The reward model in the place of ``role``, with the tokenizer and the chat template of its own."""
        settings, parent = self.settings, self.parents[role]
        tokenizer = loading.load_tokenizer(parent, settings.model)
        model = self.shared(role)
        if model is None:
            model = loading.load_reward_model(parent, settings.model, tokenizer, new_head="refused")
        model = model.to(torch_device(settings.hardware)).requires_grad_(False)
        return RewardModel(model, tokenizer, max_length=self._length(model, tokenizer))

    def ensemble(self, role: str, term: RewardTermSettings) -> Ensemble:
        """Members one by one, or as adapters on a base that is loaded once."""
        settings, roles = self.settings, [f"{role}{suffix}" for suffix in term.runs()]
        parents = [self.parents[one] for one in roles]
        tokenizer = loading.load_tokenizer(parents[0], settings.model)
        together = all(self.shared(one) is not None for one in roles)
        worn = None if together else loading.load_adapted(parents, settings.model, tokenizer)
        if worn is None:
            members: list[RewardModel] = [self.model(one) for one in roles]
        else:
            worn, length = worn.to(torch_device(settings.hardware)), self._length(worn, tokenizer)
            numbers = map(str, range(len(parents)))
            members = [AdaptedRewardModel(worn, number, tokenizer, max_length=length) for number in numbers]
        stored = term.normalization is Normalization.stored
        return Ensemble(members, term.ensemble.deviations, [self._stored(one) for one in roles] if stored else None)

    def _stored(self, role: str) -> FixedNormalizer:
        measured = statistics(self.parents[role])
        if measured is None:
            raise LineageError(
                f"stage.{role}={self.parents[role].path} is no run of stage=reward and holds no statistics: "
                "set its normalization to running or none"
            )
        return measured

    def _length(self, model: Any, tokenizer: Any) -> int | None:
        """Tokens of a text that are scored: as many as the policy reads and writes, or, of other tokens, as fit."""
        if tokenizer.get_vocab() == self.tokenizer.get_vocab():
            return self.settings.stage.max_prompt_length + self.settings.stage.max_response_length
        return getattr(model.config, "max_position_embeddings", None)


def statistics(reward: Parent) -> FixedNormalizer | None:
    """Mean and deviation of the scores that stage=reward measured; None for a model that is no such run."""
    measured = reward.manifest["metrics"] if reward.manifest else {}
    return FixedNormalizer(measured["scores/mean"], measured["scores/std"]) if "scores/std" in measured else None
