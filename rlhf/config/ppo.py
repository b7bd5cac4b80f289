"""The settings of stage=ppo."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from rlhf.config.rewards import RewardTermSettings, reward_term, reward_terms
from rlhf.config.rollout import Engine, RolloutSettings
from rlhf.config.rules import require
from rlhf.config.sentinel import SentinelSettings
from rlhf.config.stage import Input, TrainedStage
from rlhf.errors import ConfigError


class MissingEOS(Enum):
    """What happens to the score of a response that does not end by itself."""

    keep = "keep"
    subtract = "subtract"
    replace = "replace"


class KLIn(Enum):
    """Where the penalty for leaving the reference is."""

    reward = "reward"
    loss = "loss"


class KLEstimator(Enum):
    """Schulman 2020, http://joschu.net/blog/kl-approx.html; rlhf/ppo/kl.py has the formulas."""

    k1 = "k1"
    k2 = "k2"
    k3 = "k3"


class CriticKind(Enum):
    """What the critic is: weights of its own (a model, or on one base an adapter), or a head on the policy's trunk."""

    separate = "separate"
    value_head = "value_head"


class LossMean(Enum):
    """What a loss is the mean over: every token alike, or every response alike."""

    token = "token"
    response = "response"


@dataclass(kw_only=True)
class PPOStage(TrainedStage):
    policy: str
    reward: str | None
    rewards: Any
    reward_defaults: RewardTermSettings
    gold: Any
    critic: str | None
    critic_kind: CriticKind
    value_coef: float
    value_detached: bool
    share_base_model: bool | None
    updates: int
    batch_size: int
    minibatches: int
    micro_batch_size: int | None
    micro_batch_tokens: int | None
    epochs: int
    learning_rate: float
    critic_learning_rate: float
    adam_epsilon: float
    max_grad_norm: float
    warmup_updates: int
    critic_warmup_updates: int
    kl_coef: float
    kl_in: KLIn
    kl_estimator: KLEstimator
    kl_target: float | None
    kl_gain: float
    gamma: float
    gae_lambda: float
    clip_low: float
    clip_high: float
    dual_clip: float | None
    value_clip: float | None
    target_kl: float | None
    entropy_coef: float
    loss_mean: LossMean
    importance_cap: float | None
    whiten_rewards: bool
    whiten_advantages: bool
    temperature: float
    max_prompt_length: int
    max_response_length: int
    missing_eos: MissingEOS
    missing_eos_penalty: float
    normalize_scores: bool
    score_clip: float | None
    save_every: int
    log_every: int
    rollout: RolloutSettings
    sentinel: SentinelSettings

    reads: ClassVar[tuple[str, ...]] = ("prompts",)
    measured: ClassVar[bool] = True

    def inputs(self) -> dict[str, Input]:
        """Besides the policy: every run that scores, under the name of its term, and what the critic starts from."""
        found = super().inputs() | ({} if self.reward is None else {"reward": Input(self.reward, ("reward",))})
        terms = {f"rewards.{name}": term for name, term in self.terms().items()}
        if (gold := self.gold_term()) is not None:
            terms["gold"] = gold
        for role, term in terms.items():
            found |= {role + suffix: Input(path, ("reward",)) for suffix, path in term.runs().items()}
        if self.critic is not None:
            found["critic"] = Input(self.critic, ("base", *self.starts_from, "reward"))
        return found

    def terms(self) -> dict[str, RewardTermSettings]:
        """The terms of ``rewards`` by name, typed; ``reward`` is not among them."""
        return reward_terms(self.rewards, self.reward_defaults)

    def gold_term(self) -> RewardTermSettings | None:
        """``gold`` as a term; a text is the path of a function."""
        if self.gold is None:
            return None
        gold = {"function": self.gold} if isinstance(self.gold, str) else self.gold
        return reward_term("stage.gold", gold, self.reward_defaults)

    def __post_init__(self) -> None:
        terms = self.terms()
        self.gold_term()
        if self.reward is None and not terms:
            raise ConfigError("stage.reward is null and stage.rewards names no term: give one of them")
        taken = self.reward is None or "reward" not in terms
        require(taken, "stage.rewards", "reward", "leave that name to stage.reward, or set stage.reward=null")
        beyond = self.dual_clip is None or self.dual_clip > 1
        require(beyond, "stage.dual_clip", self.dual_clip, "be above 1, or null: it bounds a ratio that has grown")
        cap = self.importance_cap is None or self.importance_cap >= 1
        require(cap, "stage.importance_cap", self.importance_cap, "be at least 1, or null: equal engines have weight 1")
        super().__post_init__()
        enough = self.warmup_updates <= self.updates
        require(enough, "stage.warmup_updates", self.warmup_updates, f"be at most stage.updates={self.updates}")
        if self.critic_kind is CriticKind.value_head and self.critic is not None:
            raise ConfigError(
                f"stage.critic_kind=value_head starts from zero on the policy's trunk, and stage.critic={self.critic} "
                "would not be read: give one of them"
            )
        if self.kl_in is KLIn.loss and self.kl_estimator is KLEstimator.k1:
            raise ConfigError(
                "stage.kl_in=loss cannot have stage.kl_estimator=k1, whose gradient in a loss is 0 on average: "
                "give stage.kl_estimator=k2, which has the gradient of the KL"
            )
        if self.kl_target is not None and self.kl_coef == 0:
            raise ConfigError("stage.kl_target scales stage.kl_coef, which is 0 and stays so: give it a value to start")
        if self.rollout.engine is Engine.vllm and self.importance_cap is None:
            raise ConfigError(
                "stage.rollout.engine=vllm draws from a distribution that is not quite the policy's: "
                "give stage.importance_cap=2, which corrects for it"
            )
        if self.batch_size % self.minibatches:
            raise ConfigError(
                f"stage.batch_size={self.batch_size} is not divisible by stage.minibatches={self.minibatches}"
            )
