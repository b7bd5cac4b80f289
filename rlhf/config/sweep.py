"""The settings of stage=sweep and stage=ladder."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from rlhf.config.ranges import require_ranges
from rlhf.config.rules import require
from rlhf.config.stage import Stage

BUDGETED = (
    "sft",
    "reward",
    "dpo",
    "kto",
    "ppo",
)  # stages whose length a number of tokens can set
METHOD = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(kw_only=True)
class SweepStage(Stage):
    """Settings of stage=sweep. ``runs``: folders of sweeps, or single runs, ranked on one leaderboard."""

    runs: list[str]

    repeats: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(bool(self.runs), "stage.runs", self.runs, "name one or more sweep folders or runs")


@dataclass(kw_only=True)
class LadderStage(Stage):
    """Settings of stage=ladder; conf/stage/ladder.yaml explains each."""

    parents: Any
    methods: Any
    baseline: str | None
    seeds: list[int]
    budget: int | None

    repeats: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_ranges("stage.", self)
        self.methods, self.parents = map(present, (self.methods, self.parents))
        methods = self.methods if isinstance(self.methods, dict) else {}
        lists = isinstance(self.parents, dict) and all(isinstance(own, list) for own in self.parents.values())
        require(lists, "stage.parents", self.parents, "map stages to lists of settings")
        require(len(methods) > 1, "stage.methods", self.methods, "map two or more methods to their settings")
        for name, settings in methods.items():
            key = f"stage.methods.{name}"
            require(bool(METHOD.fullmatch(str(name))), key, name, "be named by letters, digits, '_', '-' and '.'")
            named = isinstance(settings, list) and sum(str(item).startswith("stage=") for item in settings) == 1
            require(named, key, settings, "be a list of settings with one stage=, such as [stage=dpo, stage.beta=0.3]")
            require(name not in self.parents, key, name, "differ from the stages in stage.parents")
        once = bool(self.seeds) and len({*self.seeds}) == len(self.seeds)
        require(once, "stage.seeds", self.seeds, "be one seed or more, each once")
        known = self.baseline is None or self.baseline in methods
        require(known, "stage.baseline", self.baseline, f"be null or one of {', '.join(map(str, methods))}")

    @property
    def compared(self) -> str:
        """The method that the others are compared with."""
        return self.baseline or next(iter(self.methods))


def present(of: Any) -> Any:
    """Return a mapping without its null values, by which a recipe leaves entries of the defaults out."""
    return {key: value for key, value in of.items() if value is not None} if isinstance(of, dict) else of
