"""The settings of each stage, and what it starts from."""

from dataclasses import dataclass
from typing import Any, ClassVar

from rlhf.config.labelling import LabelStage, SampleStage
from rlhf.config.ppo import PPOStage
from rlhf.config.rules import require, require_positive
from rlhf.config.stage import Input, Stage, TrainedStage


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
class CompareStage(Stage):
    """``models`` maps a column's title to a run directory, a local folder or a Hub id; null leaves a column out.

    ``progression`` is what ``models`` is unless it is given: a whole mapping can be put in the place of a reference
    to another one, while one that stands there could only have its own keys changed.
    """

    progression: dict[str, str | None]
    models: Any
    reference: str
    reward: str | None
    prompts: int
    samples: int
    temperature: float
    batch_size: int
    max_prompt_length: int
    max_response_length: int
    bootstrap: int
    questions: list[str]

    reads: ClassVar[tuple[str, ...]] = ("prompts", "text")

    def inputs(self) -> dict[str, Input]:
        policies = ("base", "sft", "dpo", "ppo")
        models = {
            # A column of the progression may not be trained yet; one that the user gives is meant to be there.
            title: Input(path, policies, title == self.reference or path != self.progression.get(title))
            for title, path in self.models.items()
            if path is not None
        }
        return models | ({} if self.reward is None else {"reward": Input(self.reward, ("reward",), required=False)})

    def __post_init__(self) -> None:
        numbers = ("prompts", "samples", "temperature", "batch_size", "max_response_length", "bootstrap")
        require_positive("stage", **{name: getattr(self, name) for name in numbers})
        require(isinstance(self.models, dict), "stage.models", self.models, "map titles to runs, folders or Hub ids")
        given = [title for title, path in self.models.items() if path is not None]
        require(self.reference in given, "stage.reference", self.reference, f"be one of {', '.join(given)}")
        require("reward" not in given, "stage.models", "reward", "leave that title to the reward model")


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
