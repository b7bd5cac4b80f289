"""The settings of stage=ppo."""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from rlhf.config.losses import KLEstimator, KLIn, LossMean, Ratio
from rlhf.config.rewards import RewardTermSettings, ScoredStage, reward_terms
from rlhf.config.rollout import Engine, RolloutSettings
from rlhf.config.rules import require
from rlhf.config.sentinel import SentinelSettings
from rlhf.config.stage import Input, SharedPrefix, TrainedStage
from rlhf.errors import ConfigError


class MissingEOS(Enum):
    """Treatment of the score of a response without an EOS token."""

    keep = "keep"
    subtract = "subtract"
    replace = "replace"
    mask = "mask"


class Advantage(Enum):
    """Estimator of the advantages; rlhf/ppo/advantages.py has the formulas. Only ``gae`` has a critic."""

    gae = "gae"
    rloo = "rloo"
    grpo = "grpo"
    dr_grpo = "dr_grpo"
    reinforce = "reinforce"
    reinforce_pp = "reinforce_pp"
    reinforce_pp_baseline = "reinforce_pp_baseline"
    reverse_kl = "reverse_kl"

    @property
    def compares(self) -> bool:
        """Whether a response is compared with the others of its prompt."""
        return self not in (Advantage.gae, Advantage.reinforce, Advantage.reinforce_pp, Advantage.reverse_kl)


class EqualGroups(Enum):
    """Treatment of prompts whose responses all have the same score."""

    keep = "keep"
    drop = "drop"
    resample = "resample"


class CriticKind(Enum):
    """Form of the critic: a separate model (or adapter on a shared base), or a head on the policy's trunk."""

    separate = "separate"
    value_head = "value_head"


@dataclass(kw_only=True)
class PPOStage(ScoredStage, TrainedStage):
    """Settings of stage=ppo; conf/stage/ppo.yaml explains each."""

    policy: str
    branch_from: str | None
    keep_every: int | None
    teacher: str | None
    reward: str | None
    rewards: Any
    reward_defaults: RewardTermSettings
    gold: Any
    shadows: Any
    distance_coef: float
    advantage: Advantage
    samples: int
    shared_prefix: SharedPrefix
    equal_groups: EqualGroups
    resample_rounds: int
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
    kl_ratio_gradient: bool
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
    ratio: Ratio
    loss_mean: LossMean
    importance_cap: float | None
    ema: float | None
    ptx_coef: float
    ptx_batch_size: int
    ptx_block_length: int
    whiten_rewards: bool
    whiten_advantages: bool
    temperature: float
    max_prompt_length: int
    max_response_length: int
    missing_eos: MissingEOS
    missing_eos_penalty: float
    overlong_buffer: int | None
    normalize_scores: bool
    score_clip: float | None
    save_every: int
    log_every: int
    ledger: int | None
    rollout: RolloutSettings
    sentinel: SentinelSettings

    reads: ClassVar[tuple[str, ...]] = ("prompts",)
    measured: ClassVar[bool] = True

    @property
    def has_critic(self) -> bool:
        """Whether a critic is trained."""
        return self.advantage is Advantage.gae

    @property
    def sources(self) -> tuple[str, ...]:
        """The prompts, and the text of ``ptx_coef``."""
        return (*self.reads, "text") if self.ptx_coef else self.reads

    @property
    def scoring(self) -> list[str]:
        """The roles of reward models, including the gold reward's."""
        return [role for role in self.inputs() if role.partition(".")[0] in ("reward", "rewards", "gold")]

    @property
    def rows(self) -> int:
        """The number of responses of an update, over all ranks."""
        return self.batch_size * self.samples

    @property
    def usual(self) -> RewardTermSettings:
        """The default values of every term."""
        return self.reward_defaults

    def inputs(self) -> dict[str, Input]:
        """Return the run to branch from, the policy, every run that scores, by term, and the start of the critic."""
        found = super().inputs()
        if self.branch_from is not None:
            path, _, update = self.branch_from.rpartition("@")
            found = {"branch_from": Input(path, ("ppo",), update=int(update))} | found
        if self.teacher is not None:
            found["teacher"] = Input(self.teacher, ("base", *self.starts_from))
        if self.critic is not None:
            found["critic"] = Input(self.critic, ("base", *self.starts_from, "reward"))
        return found

    def roles(self) -> dict[str, RewardTermSettings]:
        """Return role -> term of all rewards, gold and shadows included, except ``reward``."""
        return super().roles() | {f"shadows.{name}": term for name, term in self.shadow_terms().items()}

    def shadow_terms(self) -> dict[str, RewardTermSettings]:
        """Return the terms of ``shadows`` by name, typed; their weights and normalization have no effect."""
        return reward_terms(self.shadows, self.reward_defaults, "stage.shadows")

    def __post_init__(self) -> None:
        self.check_terms()
        self.shadow_terms()
        self._check_teacher()
        if not self.scores and self.teacher is None:
            raise ConfigError("stage.reward is null and stage.rewards has no term: set one of them")
        beyond = self.dual_clip is None or self.dual_clip > 1
        require(beyond, "stage.dual_clip", self.dual_clip, "be above 1, or null")
        cap = self.importance_cap is None or self.importance_cap >= 1
        require(cap, "stage.importance_cap", self.importance_cap, "be at least 1, or null")
        super().__post_init__()
        if self.branch_from is not None:
            form = re.fullmatch(r".+@(\d+)", self.branch_from)
            names = f"name a run and an update, such as {self.branch_from.partition('@')[0]}@{self.save_every}"
            require(bool(form), "stage.branch_from", self.branch_from, names)
            left = form is not None and int(form[1]) < self.updates
            require(left, "stage.updates", self.updates, f"be above the update of stage.branch_from={self.branch_from}")
        enough = self.warmup_updates <= self.updates
        require(enough, "stage.warmup_updates", self.warmup_updates, f"be at most stage.updates={self.updates}")
        self._check_advantage()
        if self.critic_kind is CriticKind.value_head and self.critic is not None:
            raise ConfigError(
                f"stage.critic_kind=value_head starts a new head on the policy's trunk, so stage.critic="
                f"{self.critic} would be ignored: set stage.critic=null, or stage.critic_kind=separate"
            )
        if self.kl_in is KLIn.loss and self.kl_estimator is KLEstimator.k1 and not self.kl_ratio_gradient:
            raise ConfigError(
                "stage.kl_in=loss cannot have stage.kl_estimator=k1, whose gradient is 0 in expectation: "
                "set stage.kl_estimator=k2, which has the gradient of the KL"
            )
        if self.kl_ratio_gradient and self.kl_in is KLIn.reward:
            raise ConfigError(
                "stage.kl_ratio_gradient=true has no effect with stage.kl_in=reward: set stage.kl_in=loss"
            )
        if self.kl_target is not None and self.kl_coef == 0:
            raise ConfigError("stage.kl_target scales stage.kl_coef, which is 0 and stays 0: set stage.kl_coef above 0")
        if self.rollout.engine is Engine.vllm and self.importance_cap is None:
            raise ConfigError(
                "stage.rollout.engine=vllm samples from a distribution slightly different from the policy's: "
                "set stage.importance_cap=2, which corrects for it"
            )
        if self.batch_size % self.minibatches:
            raise ConfigError(
                f"stage.batch_size={self.batch_size} is not divisible by stage.minibatches={self.minibatches}"
            )

    def _check_teacher(self) -> None:
        """Check the settings that a teacher replaces."""
        own = self.advantage is Advantage.reverse_kl
        if self.teacher is None:
            if own:
                raise ConfigError("stage.advantage=reverse_kl is the one of a teacher: set stage.teacher, too")
            return
        if not own:
            raise ConfigError(
                f"stage.teacher has the advantages reverse_kl, so stage.advantage={self.advantage.value} would be "
                "ignored: leave it out"
            )
        if self.reward is not None or self.terms():
            raise ConfigError(
                "stage.teacher replaces the reward, so stage.reward and stage.rewards would be ignored: set both to "
                "null, or leave them out"
            )
        if self.kl_target is not None or self.kl_in is KLIn.loss:
            raise ConfigError(
                "stage.teacher maximizes -KL(policy, teacher) without a further penalty, so stage.kl_target and "
                "stage.kl_in=loss would be ignored: leave them out"
            )

    def _check_advantage(self) -> None:
        """Check the settings that depend on the estimator of the advantages, and on the number of samples."""
        name = f"stage.advantage={self.advantage.value}"
        if self.advantage.compares and self.samples < 2:
            raise ConfigError(
                f"{name} compares the responses to a prompt, but stage.samples={self.samples}: set it to 2 or more"
            )
        if self.equal_groups is not EqualGroups.keep and not self.advantage.compares:
            raise ConfigError(
                f"stage.equal_groups={self.equal_groups.value} is for estimators that compare the responses to a "
                f"prompt, which {name} does not: set stage.equal_groups=keep"
            )
        if self.critic is not None and not self.has_critic:
            raise ConfigError(f"{name} has no critic, so stage.critic={self.critic} would be ignored: leave it out")
        if self.critic_warmup_updates and not self.has_critic:
            raise ConfigError(
                f"{name} has no critic, so nothing would be trained during stage.critic_warmup_updates="
                f"{self.critic_warmup_updates}: set it to 0"
            )
        if self.advantage.compares and self.gamma != 1:
            raise ConfigError(
                f"{name} compares undiscounted sums of rewards, so stage.gamma={self.gamma:g} would be ignored: "
                "set stage.gamma=1"
            )
        room = self.overlong_buffer is None or self.overlong_buffer <= self.max_response_length
        limit = f"be at most stage.max_response_length={self.max_response_length}"
        require(room, "stage.overlong_buffer", self.overlong_buffer, limit)
