"""A reward model: how it is trained, and what is asked of it afterwards."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from rlhf.config.ranges import require_ranges
from rlhf.config.stage import Input, SharedPrefix, Stage, TrainedStage
from rlhf.errors import ConfigError


class RewardLoss(Enum):
    """What is learned from: each pair alone, or the ranking that the pairs of a prompt amount to."""

    bradley_terry = "bradley_terry"
    plackett_luce = "plackett_luce"


@dataclass(kw_only=True)
class CardStage(Stage):
    """What every stage that writes a report card has in common."""

    probe_rows: int
    tfidf_pairs: int
    calibration_bins: int
    bootstrap: int
    statistics_prompts: int
    statistics_temperature: float

    def __post_init__(self) -> None:
        require_ranges("stage.", self)


@dataclass(kw_only=True)
class RewardStage(CardStage, TrainedStage):
    policy: str
    loss: RewardLoss
    margin: bool
    label_smoothing: float
    early_stopping: int | None
    ensemble: int
    shared_prefix: SharedPrefix
    trainer: dict[str, Any]

    reads: ClassVar[tuple[str, ...]] = ("preferences",)

    def __post_init__(self) -> None:
        TrainedStage.__post_init__(self)
        pairwise = {"margin=true": self.margin, f"label_smoothing={self.label_smoothing}": self.label_smoothing > 0}
        for option, given in pairwise.items():
            if given and self.loss is RewardLoss.plackett_luce:
                raise ConfigError(
                    f"stage.{option} is of pairs, and stage.loss=plackett_luce of rankings: give one of them"
                )
        if self.early_stopping is not None and self.trainer.get("eval_strategy") != "steps":
            raise ConfigError(
                f"stage.early_stopping={self.early_stopping} needs held-out losses to compare, one every "
                "stage.trainer.save_steps: give stage.trainer.eval_strategy=steps, too"
            )


@dataclass(kw_only=True)
class EvaluateRewardStage(CardStage):
    """``policy`` is what the reward model is held against; null leaves its log-probabilities and responses out."""

    reward: str
    policy: str | None
    sample_length: int
    max_length: int | None
    batch_size: int

    reads: ClassVar[tuple[str, ...]] = ("preferences",)

    def inputs(self) -> dict[str, Input]:
        policies = ("base", "sft", "dpo", "ppo")
        policy = {} if self.policy is None else {"policy": Input(self.policy, policies)}
        return {"reward": Input(self.reward, ("reward",))} | policy
