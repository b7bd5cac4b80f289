"""The settings of the sentinel, which detects failures of a PPO run."""

from dataclasses import dataclass
from enum import Enum

from rlhf.config.ranges import require_ranges


class SentinelAction(Enum):
    """Reaction to a failure: warn, stop the run, or return to the last healthy checkpoint with lower learning rates."""

    warn = "warn"
    stop = "stop"
    rollback = "rollback"


@dataclass(kw_only=True)
class SentinelSettings:
    """Thresholds; conf/stage/ppo.yaml explains each with its source. A null disables its diagnosis."""

    action: SentinelAction
    rollbacks: int
    rollback_factor: float
    window: int
    grace: int
    start_error: float
    start_error_half: float
    approx_kl_max: float | None
    explained_variance: float | None
    kl_max: float | None
    kl_min: float | None
    eos_rate_min: float | None
    length_growth: float | None
    length_correlation: float
    repetition: float | None
    entropy_share: float | None
    gold_fall: float | None
    distinct: float | None
    equal_groups: float | None
    far: float | None

    def __post_init__(self) -> None:
        require_ranges("stage.sentinel.", self)
