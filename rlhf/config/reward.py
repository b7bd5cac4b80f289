"""The settings of stage=reward and stage=evaluate_reward."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from rlhf.config.ranges import require_ranges
from rlhf.config.stage import POLICIES, Input, SharedPrefix, Stage, TrainerStage
from rlhf.errors import ConfigError


class RewardLoss(Enum):
    """Loss over single pairs, or over the ranking formed by the pairs of a prompt."""

    bradley_terry = "bradley_terry"
    plackett_luce = "plackett_luce"


@dataclass(kw_only=True)
class CardStage(Stage):
    """Settings of the stages that write a report card."""

    probe_rows: int
    tfidf_pairs: int
    calibration_bins: int
    bootstrap: int
    statistics_prompts: int
    statistics_temperature: float

    def __post_init__(self) -> None:
        require_ranges("stage.", self)


@dataclass(kw_only=True)
class RewardStage(CardStage, TrainerStage):
    """Settings of stage=reward; conf/stage/reward.yaml explains each."""

    policy: str
    loss: RewardLoss
    margin: bool
    label_smoothing: float
    ensemble: int
    shared_prefix: SharedPrefix

    reads: ClassVar[tuple[str, ...]] = ("preferences",)

    def __post_init__(self) -> None:
        TrainerStage.__post_init__(self)
        pairwise = {"margin=true": self.margin, f"label_smoothing={self.label_smoothing}": self.label_smoothing > 0}
        for option, given in pairwise.items():
            if given and self.loss is RewardLoss.plackett_luce:
                raise ConfigError(
                    f"stage.{option} needs pairs, but stage.loss=plackett_luce learns rankings: set only one of them"
                )


@dataclass(kw_only=True)
class EvaluateRewardStage(CardStage):
    """Settings of stage=evaluate_reward. ``policy`` is a baseline by its log-probabilities; null skips it."""

    reward: str
    policy: str | None
    sample_length: int
    max_length: int | None
    batch_size: int

    reads: ClassVar[tuple[str, ...]] = ("preferences",)

    def inputs(self) -> dict[str, Input]:
        """Return the reward model and the policy it is compared with."""
        policies = ("base", *POLICIES)
        policy = {} if self.policy is None else {"policy": Input(self.policy, policies)}
        return {"reward": Input(self.reward, ("reward",))} | policy
