"""What the sentinel of a PPO run takes for a failure, and what it does about one."""

from dataclasses import dataclass
from enum import Enum

from rlhf.config.rules import require, require_not_negative, require_positive


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
    step_kl: float | None
    explained_variance: float | None
    kl_most: float | None
    kl_least: float | None
    ended: float | None
    length_growth: float | None
    length_correlation: float
    repetition: float | None
    entropy_share: float | None
    gold_fall: float | None
    distinct: float | None

    def __post_init__(self) -> None:
        names = ("window", "start_error", "start_error_half", "step_kl", "kl_most", "length_growth", "gold_fall")
        require_positive("stage.sentinel", **{name: getattr(self, name) for name in names})
        require_not_negative("stage.sentinel", rollbacks=self.rollbacks, grace=self.grace)
        require(0 < self.rollback_factor < 1, "stage.sentinel.rollback_factor", self.rollback_factor, "lie in (0, 1)")
        for name in ("ended", "repetition", "entropy_share", "distinct", "length_correlation"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, f"stage.sentinel.{name}", value, "lie in [0, 1]")
        variance, least = self.explained_variance, self.kl_least
        require(variance is None or variance < 1, "stage.sentinel.explained_variance", variance, "be below 1")
        require(least is None or least < 0, "stage.sentinel.kl_least", least, "be negative")
