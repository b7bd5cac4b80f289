"""Types and rules of the settings in conf/. Values are only in the YAML, each with its source beside it.

The dataclasses have no defaults: a value missing from the YAML is an error. ``__post_init__`` holds the rules that a
type cannot express; it runs on the final values, before torch is imported. Composed settings are never modified.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

from rlhf.config import objective as objectives
from rlhf.config.compare import CompareStage
from rlhf.config.eval_set import EvalSet
from rlhf.config.judge import Judge, JudgeKind
from rlhf.config.labeling import ChatStage, LabelStage, SampleStage, WatchStage
from rlhf.config.losses import KLEstimator, KLIn, LossMean, Ratio
from rlhf.config.merge import MergeStage
from rlhf.config.parts import (
    Adapter,
    AdapterKind,
    Autocast,
    Data,
    Dtype,
    Format,
    Hardware,
    Model,
    Pairing,
    Rankings,
    Render,
    Source,
    Strategy,
    Ties,
    Tracker,
    TrackerKind,
)
from rlhf.config.plan import PLANNED, PlanStage
from rlhf.config.ppo import Advantage, CriticKind, EqualGroups, MissingEOS, PPOStage
from rlhf.config.publish import ExportFormat, ExportStage, Publish, PublishStage, Quantization, Weights
from rlhf.config.ranges import require_ranges
from rlhf.config.reward import Benchmark, EvaluateRewardStage, RewardLoss, RewardStage
from rlhf.config.rewards import Normalization, RewardTermSettings, ScoredStage
from rlhf.config.rollout import Engine, OldLogprobs, RolloutSettings, VLLMMode
from rlhf.config.rules import require
from rlhf.config.sentinel import SentinelAction, SentinelSettings
from rlhf.config.stage import Input, SharedPrefix, Stage, TrainedStage, TrainerStage, part_of
from rlhf.config.stages import (
    CHAINS,
    PROGRESSION,
    STAGES,
    BaseStage,
    DPOStage,
    InspectStage,
    KTOLoss,
    KTOStage,
    OnlineDPOStage,
    PreferenceStage,
    ProgressionStage,
    RAFTStage,
    Reference,
    SFTStage,
    StatusStage,
    Turns,
)
from rlhf.config.sweep import LadderStage, OveroptimizeStage, SweepStage
from rlhf.errors import ConfigError

__all__ = [
    "CHAINS",
    "PLANNED",
    "PROGRESSION",
    "STAGES",
    "Adapter",
    "AdapterKind",
    "Advantage",
    "Autocast",
    "BaseStage",
    "Benchmark",
    "ChatStage",
    "CompareStage",
    "CriticKind",
    "DPOStage",
    "Data",
    "Dtype",
    "Engine",
    "EqualGroups",
    "EvalSet",
    "EvaluateRewardStage",
    "ExportFormat",
    "ExportStage",
    "Format",
    "Hardware",
    "Input",
    "InspectStage",
    "Judge",
    "JudgeKind",
    "KLEstimator",
    "KLIn",
    "KTOLoss",
    "KTOStage",
    "LabelStage",
    "LadderStage",
    "LossMean",
    "MergeStage",
    "MissingEOS",
    "Model",
    "Normalization",
    "OldLogprobs",
    "OnlineDPOStage",
    "OveroptimizeStage",
    "PPOStage",
    "Pairing",
    "PlanStage",
    "PreferenceStage",
    "ProgressionStage",
    "Publish",
    "PublishStage",
    "Quantization",
    "RAFTStage",
    "Rankings",
    "Ratio",
    "Reference",
    "Render",
    "RewardLoss",
    "RewardStage",
    "RewardTermSettings",
    "RolloutSettings",
    "SFTStage",
    "SampleStage",
    "ScoredStage",
    "SentinelAction",
    "SentinelSettings",
    "Settings",
    "SharedPrefix",
    "Source",
    "Stage",
    "StatusStage",
    "Strategy",
    "SweepStage",
    "Ties",
    "Tracker",
    "TrackerKind",
    "TrainedStage",
    "TrainerStage",
    "Turns",
    "VLLMMode",
    "WatchStage",
    "Weights",
    "part_of",
]


S = TypeVar("S", bound=Stage)
CURVES = ("svg", "csv", "html")


@dataclass(kw_only=True)
class Settings:
    """The composed configuration, as plain dataclasses."""

    name: str
    seed: int
    checkpoints: str
    overwrite: bool
    resume: bool
    curves: list[str]
    telemetry: bool
    model: Model
    data: Data
    adapter: Adapter
    hardware: Hardware
    tracker: Tracker
    judge: Judge
    eval_set: EvalSet
    objective: Any  # null, a metric's name, or a list of names
    stage: Stage

    def __post_init__(self) -> None:
        require_ranges("", self)
        if STAGES.get(self.stage.name) is not type(self.stage):
            raise ConfigError(
                f"stage.name={self.stage.name} cannot rename a stage: leave it out, and set name to write elsewhere"
            )
        if self.overwrite and self.resume:
            raise ConfigError("overwrite=true and resume=true contradict each other: set only one of them")
        if isinstance(self.stage, PPOStage) and self.stage.share_base_model and self.adapter.kind is AdapterKind.none:
            raise ConfigError(
                "stage.share_base_model=true needs adapters on a frozen base: set adapter=lora or adapter=qlora"
            )
        if isinstance(self.stage, PPOStage) and self.hardware.strategy.sharded:
            raise ConfigError(
                f"hardware.strategy={self.hardware.strategy.value} cannot shard the policy and the critic of stage=ppo "
                "and the model that generates: set hardware=ddp, with adapter=lora if memory is short"
            )
        if isinstance(self.stage, BaseStage) and self.stage.policy is None:
            self.model.new("stage.policy=null")
            if self.adapter.kind is not AdapterKind.none:
                raise ConfigError(
                    f"adapter={self.adapter.kind.value} needs a trained model, and stage.policy=null starts from "
                    "random weights: set adapter=none, or stage.policy to a run, a model folder or a Hub id"
                )
        self._check_rubrics()
        for form in self.curves:
            require(form in CURVES, "curves", self.curves, f"be a list of {', '.join(CURVES)}")
        if isinstance(self.stage, OnlineDPOStage):
            self._check_labels(self.stage)
        objectives.check(self.objective, self.stage.name)
        self._check_measured()
        self._check_autocast()
        members = getattr(self.stage, "ensemble", 1)
        if members > 1 and self.adapter.kind is AdapterKind.none:
            raise ConfigError(
                f"stage.ensemble={members} trains adapters on one base: set adapter=lora or adapter=qlora"
            )

    def stage_as(self, kind: type[S]) -> S:
        """Return the stage's settings, narrowed to their class ``kind``.

        Raises:
            TypeError: they are the settings of another stage, which is a bug in the caller.
        """
        if not isinstance(self.stage, kind):
            raise TypeError(f"the settings are of stage={self.stage.name}, not of {kind.__name__}")
        return self.stage

    def _check_rubrics(self) -> None:
        """Raise ConfigError if a response is to be scored by a rubric, and the judge is not a language model."""
        if not (isinstance(self.stage, PPOStage | EvaluateRewardStage) and self.stage.judged):
            return
        if self.judge.kind not in (JudgeKind.local, JudgeKind.endpoint):
            raise ConfigError(
                f"judge={self.judge.kind.value} cannot score by a rubric, which needs a language model: set "
                "judge=endpoint or judge=local, and judge.model"
            )
        if isinstance(self.stage, EvaluateRewardStage):
            scales = {"stage.scale": self.stage.scale}
        else:
            scales = {f"stage.{role}.judge.scale": term.judge.scale for role, term in self.stage.roles().items()}
        for key, scale in scales.items():
            single = self.judge.kind is JudgeKind.endpoint or scale < 10
            require(single, key, scale, "be at most 9 with judge=local, which reads the probability of one digit")

    def _check_labels(self, stage: OnlineDPOStage) -> None:
        """Raise ConfigError unless either the reward or the judge decides the pairs of online DPO."""
        judged = self.judge.kind is not JudgeKind.none
        if judged and stage.scores:
            raise ConfigError(
                f"judge={self.judge.kind.value} decides the pairs of stage=online_dpo, so stage.reward and "
                "stage.rewards would be ignored: leave them out, or set judge=none"
            )
        if not judged and not stage.scores:
            raise ConfigError(
                "stage.reward is null, stage.rewards has no term and judge=none, so nothing decides the pairs of "
                "stage=online_dpo: set one of them"
            )

    def _check_autocast(self) -> None:
        full = self.model.dtype is Dtype.float32 and self.adapter.kind is not AdapterKind.qlora
        if self.hardware.autocast is Autocast.on and not full:
            raise ConfigError(
                f"hardware.autocast=on needs float32 weights, but model.dtype="
                f"{self.model.dtype.value} and adapter={self.adapter.kind.value} are set: set "
                "hardware.autocast=auto, or model.dtype=float32 without adapter=qlora"
            )

    def _check_measured(self) -> None:
        """Raise ConfigError if the objective is a metric that this run would not measure."""
        if not self.stage.measured or self.objective is None:
            return
        asked = objectives.names(self.objective, self.stage.name)
        measured = [name for name in asked if name in ("gold", "win_rate", "kl", "score")]
        if measured and not self.eval_set.prompts:
            raise ConfigError(f"objective={measured[0]} is measured on held-out prompts: set eval_set.prompts above 0")
        gold = self.stage.gold if isinstance(self.stage, ScoredStage) else self.data.gold
        by_gold = [
            name for name in asked if name == "gold" or (name == "win_rate" and not isinstance(self.stage, ScoredStage))
        ]
        if by_gold and gold is None:
            raise ConfigError(f"objective={by_gold[0]} needs a gold reward: set data.gold")
