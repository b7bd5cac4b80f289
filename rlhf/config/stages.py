"""The settings of each stage, and what it starts from."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from rlhf.config.compare import CompareStage
from rlhf.config.labelling import LabelStage, SampleStage
from rlhf.config.rules import require, require_not_negative, require_positive
from rlhf.config.stage import Input, Stage, TrainedStage
from rlhf.errors import ConfigError


class MissingEOS(Enum):
    """What happens to the score of a response that does not end by itself."""

    keep = "keep"
    subtract = "subtract"
    replace = "replace"


@dataclass(kw_only=True)
class StatusStage(Stage):
    pass


@dataclass(kw_only=True)
class BaseStage(TrainedStage):
    block_length: int
    trainer: dict[str, Any]

    reads: ClassVar[tuple[str, ...]] = ("text",)
    starts_from: ClassVar[tuple[str, ...]] = ("base",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.block_length >= 8, "stage.block_length", self.block_length, "be at least 8 tokens")


@dataclass(kw_only=True)
class SFTStage(TrainedStage):
    policy: str
    trainer: dict[str, Any]

    reads: ClassVar[tuple[str, ...]] = ("demonstrations",)
    starts_from: ClassVar[tuple[str, ...]] = ("base", "sft")


@dataclass(kw_only=True)
class RewardStage(TrainedStage):
    policy: str
    margin: bool
    statistics_prompts: int
    statistics_temperature: float
    trainer: dict[str, Any]

    reads: ClassVar[tuple[str, ...]] = ("preferences",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.statistics_prompts >= 2, "stage.statistics_prompts", self.statistics_prompts, "be at least 2")
        require_positive("stage", statistics_temperature=self.statistics_temperature)


# What TRL 1.16 knows; it looks for itself at the first step alone.
LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip


@dataclass(kw_only=True)
class DPOStage(TrainedStage):
    policy: str
    beta: float
    loss: list[str]
    label_smoothing: float
    trainer: dict[str, Any]

    reads: ClassVar[tuple[str, ...]] = ("preferences",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("stage", beta=self.beta)
        require(bool(self.loss), "stage.loss", self.loss, "name one loss or more")
        for name in self.loss:
            require(name in LOSSES, "stage.loss", name, f"be one of {', '.join(LOSSES)}")
        require(0 <= self.label_smoothing < 0.5, "stage.label_smoothing", self.label_smoothing, "lie in [0, 0.5)")
        smooth = self.label_smoothing > 0 or "exo_pair" not in self.loss
        require(smooth, "stage.label_smoothing", self.label_smoothing, "be above 0 for stage.loss=[exo_pair]")


@dataclass(kw_only=True)
class PPOStage(TrainedStage):
    policy: str
    reward: str
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
        return super().inputs() | {"reward": Input(self.reward, ("reward",))}

    def __post_init__(self) -> None:
        super().__post_init__()
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


@dataclass(kw_only=True)
class ProgressionStage(Stage):
    """``overrides`` maps a stage to further settings for it alone, e.g. ``{dpo: ["stage.beta=0.3"]}``."""

    stages: list[str]
    overrides: Any

    def __post_init__(self) -> None:
        mapping = self.overrides is None or isinstance(self.overrides, dict)
        require(mapping, "stage.overrides", self.overrides, "map stages to lists of settings")
        for name, settings in (self.overrides or {}).items():
            require(isinstance(settings, list), f"stage.overrides.{name}", settings, "be a list of settings")
        for key, names in {"stages": self.stages, "overrides": self.overrides or {}}.items():
            for name in names:
                require(name in PROGRESSION, f"stage.{key}", name, f"name one of {', '.join(PROGRESSION)}")


STAGES: dict[str, type[Stage]] = {
    "status": StatusStage,
    "base": BaseStage,
    "sft": SFTStage,
    "reward": RewardStage,
    "dpo": DPOStage,
    "ppo": PPOStage,
    "compare": CompareStage,
    "sample": SampleStage,
    "label": LabelStage,
    "progression": ProgressionStage,
}
PROGRESSION = ("base", "sft", "reward", "dpo", "ppo", "compare")
