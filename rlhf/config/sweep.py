"""The settings of stage=sweep."""

from dataclasses import dataclass
from typing import ClassVar

from rlhf.config.rules import require
from rlhf.config.stage import Stage


@dataclass(kw_only=True)
class SweepStage(Stage):
    """Settings of stage=sweep. ``runs``: folders of sweeps, or single runs, ranked on one leaderboard."""

    runs: list[str]

    repeats: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(bool(self.runs), "stage.runs", self.runs, "name one or more sweep folders or runs")
