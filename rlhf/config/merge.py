"""The settings of stage=merge."""

from dataclasses import dataclass
from glob import escape, glob
from pathlib import Path
from typing import ClassVar

from rlhf.config.ranges import require_ranges
from rlhf.config.rules import require
from rlhf.config.stage import POLICIES, Input, Stage
from rlhf.errors import ConfigError
from rlhf.storage.manifest import MANIFEST


@dataclass(kw_only=True)
class MergeStage(Stage):
    """Settings of stage=merge; conf/stage/merge.yaml explains each."""

    models: list[str]
    weights: list[float] | None
    policy: str | None
    rank: int | None

    starts_from: ClassVar[tuple[str, ...]] = ("base", *POLICIES)

    def inputs(self) -> dict[str, Input]:
        """Return the model that task vectors start from, if any, and the merged models by their number.

        Raises:
            ConfigError: there are too few models, or not as many as weights.
        """
        members = self.members()
        enough = 1 if self.policy is not None else 2
        rule = f"name {enough} or more runs, folders of sweeps or patterns, such as [checkpoints/almanac/dpo/*]"
        require(len(members) >= enough, "stage.models", self.models, rule)
        fits = self.weights is None or len(self.weights) == len(members)
        require(fits, "stage.weights", self.weights, f"have {len(members)} numbers, one for each of {members}")
        base = {} if self.policy is None else {"policy": Input(self.policy, self.starts_from)}
        return base | {f"models.{number}": Input(path, self.starts_from) for number, path in enumerate(members)}

    def members(self) -> list[str]:
        """Return the paths of ``models``, each pattern and each folder of a sweep replaced by the runs that it has."""
        found: list[str] = []
        for path in self.models:
            swept = Path(path).is_dir() and not (Path(path) / MANIFEST).exists()
            runs = sorted(glob(f"{escape(path)}/*/{MANIFEST}" if swept else f"{path}/{MANIFEST}"))
            found += [str(Path(run).parent) for run in runs] if swept or "*" in path else [path]
        return found

    def shares(self) -> list[float]:
        """Return the weight of each member."""
        count = len(self.members())
        return [1 / count] * count if self.weights is None else self.weights

    def __post_init__(self) -> None:
        require_ranges("stage.", self)
        require(self.weights is None or isinstance(self.weights, list), "stage.weights", self.weights, "be a list")
        if self.policy is None and self.weights is not None and abs(sum(self.weights) - 1) > 1e-6:
            raise ConfigError(
                f"stage.weights={self.weights} is not a mean, since the sum is not 1: change it, or set stage.policy "
                "to the model that all start from, whose task vectors can have any weights"
            )
        if self.rank is not None and self.policy is None:
            raise ConfigError(
                f"stage.rank={self.rank} merges adapters on one model: set stage.policy to the model that they were "
                "trained on"
            )
