"""The settings of stage=sweep, stage=ladder and stage=overoptimize."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from rlhf.config.ranges import require_ranges
from rlhf.config.rules import require
from rlhf.config.stage import Stage

BUDGETED = ("sft", "reward", "dpo", "kto", "ppo", "raft", "online_dpo")  # whose length a number of tokens can set
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
        _require_lists("stage.parents", self.parents, "map stages to lists of settings")
        require(len(methods) > 1, "stage.methods", self.methods, "map two or more methods to their settings")
        for name, settings in methods.items():
            key = f"stage.methods.{name}"
            require(bool(METHOD.fullmatch(str(name))), key, name, "be named by letters, digits, '_', '-' and '.'")
            rule = "be a list of settings with one stage=, such as [stage=dpo, stage.beta=0.3]"
            require(_is_command(settings), key, settings, rule)
            require(name not in self.parents, key, name, "differ from the stages in stage.parents")
        _require_once("stage.seeds", self.seeds, "be one seed or more, each once")
        known = self.baseline is None or self.baseline in methods
        require(known, "stage.baseline", self.baseline, f"be null or one of {', '.join(map(str, methods))}")

    @property
    def compared(self) -> str:
        """The method that the others are compared with."""
        return self.baseline or next(iter(self.methods))


@dataclass(kw_only=True)
class OveroptimizeStage(Stage):
    """Settings of stage=overoptimize; conf/stage/overoptimize.yaml explains each."""

    parents: Any
    sizes: Any
    pairs: list[int]
    seeds: list[int]
    train: list[str]
    sample: list[str]
    check: Any  # list of settings, or None

    repeats: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.parents, self.sizes = map(present, (self.parents, self.sizes))
        _require_lists("stage.parents", self.parents, "map stages to lists of settings")
        _require_lists("stage.sizes", self.sizes, "map names to lists of settings")
        require(bool(self.sizes), "stage.sizes", self.sizes, "have one size or more")
        for name in self.sizes:
            named = bool(METHOD.fullmatch(str(name)))
            require(named, f"stage.sizes.{name}", name, "be named by letters, digits, '_', '-' and '.'")
        require("reward" in self.parents, "stage.parents", self.parents, "have the stage reward")
        _require_once("stage.seeds", self.seeds, "be one seed or more, each once")
        _require_once("stage.pairs", self.pairs, "be one number of pairs or more, each once")
        require(min(self.pairs) > 0, "stage.pairs", self.pairs, "be positive numbers")
        trained = _is_command(self.train) and "stage=ppo" in self.train
        require(trained, "stage.train", self.train, "be a list of settings with stage=ppo")
        valid = self.check is None or isinstance(self.check, list)
        require(valid, "stage.check", self.check, "be a list of settings, or null")


def _is_command(settings: Any) -> bool:
    return isinstance(settings, list) and sum(str(item).startswith("stage=") for item in settings) == 1


def _require_lists(key: str, value: Any, rule: str) -> None:
    require(isinstance(value, dict) and all(isinstance(own, list) for own in value.values()), key, value, rule)


def _require_once(key: str, values: list[int], rule: str) -> None:
    require(bool(values) and len({*values}) == len(values), key, values, rule)


def present(of: Any) -> Any:
    """Return a mapping without its null values, by which a recipe leaves entries of the defaults out."""
    return {key: value for key, value in of.items() if value is not None} if isinstance(of, dict) else of
