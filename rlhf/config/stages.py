"""The settings of each stage, and what it starts from."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from rlhf.config.compare import CompareStage
from rlhf.config.labeling import LabelStage, SampleStage
from rlhf.config.plan import PlanStage
from rlhf.config.ppo import PPOStage
from rlhf.config.publish import PublishStage
from rlhf.config.reward import EvaluateRewardStage, RewardStage
from rlhf.config.rules import require, require_not_negative, require_positive
from rlhf.config.stage import Input, SharedPrefix, Stage, TrainedStage
from rlhf.config.sweep import SweepStage
from rlhf.errors import ConfigError


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


class Turns(Enum):
    """Which of the assistant's turns in a conversation are learned."""

    all = "all"
    last = "last"


@dataclass(kw_only=True)
class SFTStage(TrainedStage):
    policy: str
    turns: Turns
    trainer: dict[str, Any]

    reads: ClassVar[tuple[str, ...]] = ("demonstrations",)
    starts_from: ClassVar[tuple[str, ...]] = ("base", "sft")


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
    shared_prefix: SharedPrefix
    cache_reference: bool
    trainer: dict[str, Any]

    reads: ClassVar[tuple[str, ...]] = ("preferences", "prompts")  # of prompts, what its policy is measured on
    measured: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("stage", beta=self.beta)
        require(bool(self.loss), "stage.loss", self.loss, "name one loss or more")
        for name in self.loss:
            require(name in LOSSES, "stage.loss", name, f"be one of {', '.join(LOSSES)}")
        require(0 <= self.label_smoothing < 0.5, "stage.label_smoothing", self.label_smoothing, "lie in [0, 0.5)")
        smooth = self.label_smoothing > 0 or "exo_pair" not in self.loss
        require(smooth, "stage.label_smoothing", self.label_smoothing, "be above 0 for stage.loss=[exo_pair]")
        for name in ("sync_ref_model", "ld_alpha"):
            if self.cache_reference and self.trainer.get(name):
                raise ConfigError(
                    f"stage.trainer.{name}={self.trainer[name]} needs the reference's log-probabilities at every step: "
                    "give stage.cache_reference=false, too"
                )


@dataclass(kw_only=True)
@dataclass(kw_only=True)
class InspectStage(Stage):
    tokenizer: str | None
    max_length: int
    examples: int
    near_duplicates: int
    similarity: float
    languages: int

    reads: ClassVar[tuple[str, ...]] = ("text", "demonstrations", "preferences", "prompts")

    def inputs(self) -> dict[str, Input]:
        policies = ("base", "sft", "dpo", "ppo")
        return {} if self.tokenizer is None else {"tokenizer": Input(self.tokenizer, policies, required=False)}

    def __post_init__(self) -> None:
        require_positive("stage", max_length=self.max_length)
        counts = ("examples", "near_duplicates", "languages")
        require_not_negative("stage", **{name: getattr(self, name) for name in counts})
        require(0 < self.similarity <= 1, "stage.similarity", self.similarity, "lie in (0, 1]")


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
    "inspect": InspectStage,
    "base": BaseStage,
    "sft": SFTStage,
    "reward": RewardStage,
    "evaluate_reward": EvaluateRewardStage,
    "dpo": DPOStage,
    "ppo": PPOStage,
    "compare": CompareStage,
    "publish": PublishStage,
    "sample": SampleStage,
    "label": LabelStage,
    "progression": ProgressionStage,
    "sweep": SweepStage,
    "plan": PlanStage,
}
PROGRESSION = ("base", "sft", "reward", "dpo", "ppo", "compare")
