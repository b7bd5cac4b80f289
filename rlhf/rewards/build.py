"""The reward and the gold reward of a stage that scores responses, built from its settings."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from rlhf.config import Normalization, PPOStage, RewardTermSettings, ScoredStage, Settings, SharedPrefix
from rlhf.errors import LineageError
from rlhf.hardware.device import torch_device
from rlhf.modeling import loading
from rlhf.rewards.columns import Rows, bound
from rlhf.rewards.composition import CompositeReward, RewardTerm
from rlhf.rewards.distance import FILE, Distance
from rlhf.rewards.ensemble import Ensemble
from rlhf.rewards.model import AdaptedRewardModel, RewardModel
from rlhf.rewards.normalization import FixedNormalizer, RunningNormalizer
from rlhf.rewards.protocol import RewardFunction, function, guarded
from rlhf.rewards.remote import RemoteReward
from rlhf.rewards.terms import FormatReward, LengthReward
from rlhf.rewards.verifiable import ChoiceReward, ExactReward, InstructionReward, NumberReward, SchemaReward
from rlhf.runs.parents import Parent

UNCHANGED = FixedNormalizer(0.0, 1.0)


# The rewards without a model or a function, by the source of a term.
PLAIN: dict[str, Callable[..., Callable]] = {
    "remote": RemoteReward,
    "length": LengthReward,
    "format": FormatReward,
    "exact": ExactReward,
    "number": NumberReward,
    "choice": ChoiceReward,
    "json_schema": SchemaReward,
    "ifeval": InstructionReward,
}


def without_models(stage: ScoredStage) -> dict[str, Callable]:
    """Return role -> reward of each term without a model, gold included; the columns are not bound yet.

    Raises:
        ConfigError: a function cannot be imported, a remote reward's token is not set, or a package is missing.
    """
    found: dict[str, Callable] = {}
    for role, term in stage.roles().items():
        [source] = term.sources()
        if source == "function":
            found[role] = function(term.function or "")
        elif source in PLAIN:
            found[role] = PLAIN[source](**vars(getattr(term, source)))
    return found


def bind(stage: ScoredStage, rewards: Mapping[str, Callable], rows: Rows | None) -> dict[str, RewardFunction]:
    """Return the rewards of ``without_models`` as RewardFunctions that look up their columns in ``rows``.

    Raises:
        DataError: ``rows`` lack a column that a reward requires, or have a value that it cannot use.
    """
    found = {}
    for role, term in stage.roles().items():
        if role in rewards:
            found[role] = bound(rewards[role], f"stage.{role}", rows)
        if term.function is not None:
            found[role] = guarded(found[role], f"stage.{role}.function={term.function}", term.timeout)
    return found


class Builder:
    """Builds rewards from terms; ``parents`` are the runs of the stage by role, ``tokenizer`` is the policy's.

    ``shared`` returns the reward model of a role if it is part of another model, and None if it must be loaded.
    ``ready`` are the rewards without a model, by role (`bind`); they are built here if it is None.

    Raises:
        ConfigError, DataError: see `without_models` and `bind`.
    """

    def __init__(
        self,
        settings: Settings,
        parents: Mapping[str, Parent],
        tokenizer: Any,
        shared: Callable[[str], Any | None] = lambda role: None,
        ready: Mapping[str, RewardFunction] | None = None,
    ):
        self.settings, self.parents, self.tokenizer, self.shared = settings, parents, tokenizer, shared
        self.stage = settings.stage_as(ScoredStage)
        self.shares_prompts = getattr(self.stage, "shared_prefix", SharedPrefix.auto) is not SharedPrefix.off
        self.ready = bind(self.stage, without_models(self.stage), None) if ready is None else ready

    def reward(self) -> tuple[RewardFunction, FixedNormalizer]:
        """Return the reward that is maximized, and the statistics to normalize it with.

        If ``stage.reward`` is the only term, it is a plain RewardModel, which PPO normalizes if
        ``stage.normalize_scores`` is set. With other terms it is a normalized term, and the sum is not normalized.
        """
        stage = self.stage
        if isinstance(stage, PPOStage) and stage.teacher is not None:
            return none, UNCHANGED
        terms = {name: self.term(f"rewards.{name}", term) for name, term in stage.terms().items()}
        if stage.reward is None:
            return CompositeReward(terms), UNCHANGED
        model, measured = self.model("reward"), statistics(self.parents["reward"])
        if stage.normalize_scores and measured is None:
            print(f"{stage.name}: {stage.reward} is not a run of stage=reward, so its scores are not normalized")
        if not terms:
            return model, measured or UNCHANGED
        reward = RewardTerm(model, 1.0, measured if stage.normalize_scores else None)
        return CompositeReward({"reward": reward} | terms), UNCHANGED

    def gold(self) -> RewardFunction | None:
        """Return the gold reward, which scores the same responses and does not train; None without one.

        Loading it does not advance torch's generator, so that later random draws do not depend on it.
        """
        term = self.stage.gold_term()
        if term is None:
            return None
        with torch.random.fork_rng():
            gold = self.term("gold", term)
        return gold.function if gold.normalization is None else CompositeReward({"gold": gold})

    def shadows(self) -> dict[str, RewardFunction]:
        """Return the rewards that score the same responses and train nothing, by name; loaded like ``gold``."""
        with torch.random.fork_rng():
            terms = self.stage.shadow_terms() if isinstance(self.stage, PPOStage) else {}
            return {name: self.function(f"shadows.{name}", term) for name, term in terms.items()}

    def term(self, role: str, term: RewardTermSettings) -> RewardTerm:
        """Return the term of ``role`` with its function and normalization.

        Raises:
            LineageError: ``normalization: stored``, but the run holds no statistics.
        """
        if term.normalization is Normalization.running:
            return RewardTerm(self.function(role, term), term.weight, RunningNormalizer())
        if term.normalization is Normalization.none or term.ensemble.runs is not None:
            return RewardTerm(self.function(role, term), term.weight)  # an ensemble normalizes each of its members
        return RewardTerm(self.function(role, term), term.weight, self._stored(role))

    def function(self, role: str, term: RewardTermSettings) -> RewardFunction:
        """Return the RewardFunction of ``term``, without its weight and normalization."""
        if role in self.ready:
            return self.ready[role]
        return self.model(role) if term.run is not None else self.ensemble(role, term)

    def model(self, role: str) -> RewardModel:
        """Return the reward model of ``role``, with its own tokenizer and chat template."""
        settings, parent = self.settings, self.parents[role]
        tokenizer = loading.load_tokenizer(parent, settings.model)
        model = self.shared(role)
        if model is None:
            model = loading.load_reward_model(parent, settings.model, tokenizer, new_head="refused")
        model = model.to(torch_device(settings.hardware)).requires_grad_(False)
        options: dict[str, Any] = {"max_length": self._length(model, tokenizer), "shared_prefix": self.shares_prompts}
        if parent.is_local:
            options["distance"] = Distance.load(parent.directory)
        if role == "reward":
            options["penalty"] = getattr(self.stage, "distance_coef", 0.0) * (statistics(parent) or UNCHANGED).std
        return RewardModel(model, tokenizer, **options)

    def ensemble(self, role: str, term: RewardTermSettings) -> Ensemble:
        """Return the ensemble of a term: separate members, or adapters on a base that is loaded once."""
        settings, roles = self.settings, [f"{role}{suffix}" for suffix in term.runs()]
        parents = [self.parents[member] for member in roles]
        tokenizer = loading.load_tokenizer(parents[0], settings.model)
        together = all(self.shared(member) is not None for member in roles)
        adapted = None if together else loading.load_adapted(parents, settings.model, tokenizer)
        if adapted is None:
            members: list[RewardModel] = [self.model(member) for member in roles]
        else:
            adapted = adapted.to(torch_device(settings.hardware))
            options = {"max_length": self._length(adapted, tokenizer), "shared_prefix": self.shares_prompts}
            numbers = map(str, range(len(parents)))
            members = [AdaptedRewardModel(adapted, number, tokenizer, **options) for number in numbers]
        stored = [self._stored(member) for member in roles] if term.normalization is Normalization.stored else None
        return Ensemble(members, term.ensemble.deviations, stored)

    def _stored(self, role: str) -> FixedNormalizer:
        measured = statistics(self.parents[role])
        if measured is None:
            raise LineageError(
                f"stage.{role}={self.parents[role].path} is not a run of stage=reward and holds no statistics: "
                "set its normalization to running or none"
            )
        return measured

    def _length(self, model: Any, tokenizer: Any) -> int | None:
        """Return the most tokens to score: the policy's prompt and response, or all that fit in another vocabulary."""
        if tokenizer.get_vocab() == self.tokenizer.get_vocab():
            return self.stage.max_prompt_length + self.stage.max_response_length
        return getattr(model.config, "max_position_embeddings", None)


def check_distance(stage: PPOStage, parents: Mapping[str, Parent]) -> None:
    """Check that the reward model has the distance that ``stage.distance_coef`` needs.

    Raises:
        LineageError: it has none.
    """
    if stage.distance_coef and not ("reward" in parents and (parents["reward"].directory / FILE).is_file()):
        raise LineageError(
            f"stage.distance_coef={stage.distance_coef:g} needs a distance, which stage.reward={stage.reward} lacks: "
            "train it with stage.distance_rows=2000, or leave stage.distance_coef out"
        )


def none(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """Return 0 for each completion: a policy with a teacher has no reward."""
    return [0.0] * len(completions)


def statistics(reward: Parent) -> FixedNormalizer | None:
    """Return mean and standard deviation of the scores measured by stage=reward; None for any other model."""
    measured = reward.manifest["metrics"] if reward.manifest else {}
    return FixedNormalizer(measured["scores/mean"], measured["scores/std"]) if "scores/std" in measured else None
