"""The settings of stage=ppo."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from rlhf.config.rewards import RewardTerm, reward_term, reward_terms
from rlhf.config.rules import require, require_not_negative, require_positive
from rlhf.config.stage import Input, TrainedStage
from rlhf.errors import ConfigError


class MissingEOS(Enum):
    """What happens to the score of a response that does not end by itself."""

    keep = "keep"
    subtract = "subtract"
    replace = "replace"


@dataclass(kw_only=True)
class PPOStage(TrainedStage):
    policy: str
    reward: str | None
    rewards: Any
    term: RewardTerm
    gold: Any
    critic: str | None
    one_base: bool | None
    updates: int
    batch_size: int
    minibatches: int
    micro_batch_size: int
    epochs: int
    learning_rate: float
    critic_learning_rate: float
    adam_epsilon: float
    max_grad_norm: float
    warmup_updates: int
    critic_warmup_updates: int
    kl_coef: float
    gamma: float
    lam: float
    clip: float
    value_clip: float
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

    reads: ClassVar[tuple[str, ...]] = ("prompts",)

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

    def terms(self) -> dict[str, RewardTerm]:
        """The terms of ``rewards`` by name, typed; ``reward`` is not among them."""
        return reward_terms(self.rewards, self.term)

    def gold_term(self) -> RewardTerm | None:
        """``gold`` as a term; a text is the path of a function."""
        if self.gold is None:
            return None
        gold = {"function": self.gold} if isinstance(self.gold, str) else self.gold
        return reward_term("stage.gold", gold, self.term)

    def __post_init__(self) -> None:
        super().__post_init__()
        terms = self.terms()
        self.gold_term()
        if self.reward is None and not terms:
            raise ConfigError("stage.reward is null and stage.rewards names no term: give one of them")
        taken = self.reward is None or "reward" not in terms
        require(taken, "stage.rewards", "reward", "leave that name to stage.reward, or set stage.reward=null")
        counts = ("updates", "batch_size", "minibatches", "micro_batch_size", "epochs", "max_prompt_length")
        reals = ("learning_rate", "critic_learning_rate", "adam_epsilon", "max_grad_norm", "clip", "value_clip")
        names = (*counts, *reals, "temperature", "max_response_length", "score_clip", "log_every", "save_every")
        require_positive("stage", **{name: getattr(self, name) for name in names})
        names = ("kl_coef", "warmup_updates", "critic_warmup_updates", "missing_eos_penalty")
        require_not_negative("stage", **{name: getattr(self, name) for name in names})
        require(0 <= self.gamma <= 1, "stage.gamma", self.gamma, "lie in [0, 1]")
        require(0 <= self.lam <= 1, "stage.lam", self.lam, "lie in [0, 1]")
        if self.batch_size % self.minibatches:
            raise ConfigError(
                f"stage.batch_size={self.batch_size} is not divisible by stage.minibatches={self.minibatches}"
            )
