"""The settings of stage=sweep."""

from dataclasses import dataclass
from typing import ClassVar

from rlhf.config.rules import require
from rlhf.config.stage import Stage


@dataclass(kw_only=True)
class SweepStage(Stage):
    """``runs``: folders of sweeps, or single runs; their jobs stand on one leaderboard."""

    runs: list[str]

    repeats: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(bool(self.runs), "stage.runs", self.runs, "name a sweep's folder or a run, or several")
