"""What the sentinel of a PPO run takes for a failure, and what it does about one."""

from dataclasses import dataclass
from enum import Enum

from rlhf.config.ranges import require_ranges


class SentinelAction(Enum):
    """What follows a diagnosis: a sentence, the end of the run, or the last healthy checkpoint at a lower rate."""

    warn = "warn"
    stop = "stop"
    rollback = "rollback"


@dataclass(kw_only=True)
class SentinelSettings:
    """Thresholds, each explained with its source in conf/stage/ppo.yaml; null switches its diagnosis off."""

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

    def __post_init__(self) -> None:
        require_ranges("stage.sentinel.", self)
