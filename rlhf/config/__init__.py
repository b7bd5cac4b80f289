"""The typed shape of conf/. Values live in YAML alone, so that every number has one home with its source beside it.

The dataclasses have no defaults: a value that the YAML forgets is an error. ``__post_init__`` holds the rules that
a type cannot express; it runs on the final values, before torch is imported. Nothing writes to settings once composed.
"""

from dataclasses import dataclass

from rlhf.config.compare import CompareStage
from rlhf.config.judge import Judge, JudgeKind
from rlhf.config.labelling import LabelStage, SampleStage
from rlhf.config.parts import (
    Adapter,
    AdapterKind,
    Data,
    Dtype,
    Format,
    Hardware,
    Model,
    Pairing,
    Rankings,
    Source,
    Ties,
    Tracker,
    TrackerKind,
)
from rlhf.config.plan import PLANNED, PlanStage
from rlhf.config.ppo import KLEstimator, KLIn, LossMean, MissingEOS, PPOStage
from rlhf.config.publish import Publish, PublishStage, Weights
from rlhf.config.reward import EvaluateRewardStage, RewardLoss, RewardStage
from rlhf.config.rewards import Normalisation, RewardTerm
from rlhf.config.rules import require
from rlhf.config.sentinel import SentinelAction, SentinelSettings
from rlhf.config.stage import Input, Stage, TrainedStage
from rlhf.config.stages import (
    PROGRESSION,
    STAGES,
    BaseStage,
    DPOStage,
    InspectStage,
    ProgressionStage,
    SFTStage,
    StatusStage,
)
from rlhf.errors import ConfigError

__all__ = [
    "PLANNED",
    "PROGRESSION",
    "STAGES",
    "Adapter",
    "AdapterKind",
    "BaseStage",
    "CompareStage",
    "DPOStage",
    "Data",
    "Dtype",
    "EvaluateRewardStage",
    "Format",
    "Hardware",
    "Input",
    "InspectStage",
    "Judge",
    "JudgeKind",
    "KLEstimator",
    "KLIn",
    "LabelStage",
    "LossMean",
    "MissingEOS",
    "Model",
    "Normalisation",
    "PPOStage",
    "Pairing",
    "PlanStage",
    "ProgressionStage",
    "Publish",
    "PublishStage",
    "Rankings",
    "RewardLoss",
    "RewardStage",
    "RewardTerm",
    "SFTStage",
    "SampleStage",
    "SentinelAction",
    "SentinelSettings",
    "Settings",
    "Source",
    "Stage",
    "StatusStage",
    "Ties",
    "Tracker",
    "TrackerKind",
    "TrainedStage",
    "Weights",
]


@dataclass(kw_only=True)
class Settings:
    """The composed configuration, as plain dataclasses."""

    name: str
    seed: int
    checkpoints: str
    overwrite: bool
    resume: bool
    model: Model
    data: Data
    adapter: Adapter
    hardware: Hardware
    tracker: Tracker
    judge: Judge
    stage: Stage

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", self.seed, "lie in [0, 2**32)")
        if self.overwrite and self.resume:
            raise ConfigError("overwrite=true and resume=true contradict each other: give one of them")
        if isinstance(self.stage, PPOStage) and self.stage.one_base and self.adapter.kind is AdapterKind.none:
            raise ConfigError("stage.one_base=true wants adapters on a frozen base: give adapter=lora or adapter=qlora")
        members = getattr(self.stage, "ensemble", 1)
        if members > 1 and self.adapter.kind is AdapterKind.none:
            raise ConfigError(
                f"stage.ensemble={members} puts adapters on one base: give adapter=lora, or adapter=qlora"
            )
