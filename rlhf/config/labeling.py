"""The settings of the stages that show responses or runs, or collect preferences: sample, label, chat, watch."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from rlhf.config.ranges import require_ranges
from rlhf.config.rewards import ScoredStage
from rlhf.config.rules import require
from rlhf.config.stage import POLICIES, Input, Stage
from rlhf.errors import ConfigError

SPLITS = ("train", "validation", "test")


@dataclass(kw_only=True)
class SampleStage(ScoredStage):
    """Settings of stage=sample. Lengths are in tokens."""

    policy: str
    split: str
    prompts: int | None
    samples: int
    stream: int
    batch_size: int

    reads: ClassVar[tuple[str, ...]] = ("prompts",)
    shared: ClassVar[bool] = True

    def inputs(self) -> dict[str, Input]:
        """Return the policy that samples, and the runs that score."""
        return {"policy": Input(self.policy, ("base", *POLICIES))} | super().inputs()

    def __post_init__(self) -> None:
        require_ranges("stage.", self)
        self.check_terms()
        require(self.split in SPLITS, "stage.split", self.split, f"be one of {', '.join(SPLITS)}")


class Pick(Enum):
    """How pairs are chosen: at random, or those whose order reward models are least certain of."""

    random = "random"
    disagreement = "disagreement"


@dataclass(kw_only=True)
class LabelStage(Stage):
    """Settings of stage=label. ``samples`` maps titles to runs of stage=sample; if it is null, ``sample`` is used."""

    sample: str
    samples: Any
    pairs: int
    limit: int | None
    pick: Pick
    pick_by: Any
    annotators: int
    port: int

    @property
    def judged(self) -> bool:
        """Whether the results depend on ``judge``."""
        return True

    def inputs(self) -> dict[str, Input]:
        """Return the runs of stage=sample by title."""
        pickers = {f"pick_by.{number}": Input(path, ("reward",)) for number, path in enumerate(self.pickers)}
        return {title: Input(path, ("sample",)) for title, path in self.titles.items()} | pickers

    @property
    def pickers(self) -> list[str]:
        """Return the paths of the reward runs that choose the pairs."""
        return [self.pick_by] if isinstance(self.pick_by, str) else self.pick_by or []

    @property
    def titles(self) -> dict[str, str]:
        """Return title -> path of the runs of stage=sample whose responses are paired."""
        return {"sample": self.sample} if self.samples is None else self.samples

    def __post_init__(self) -> None:
        require(0 <= self.port < 65536, "stage.port", self.port, "lie in [0, 65535]; 0 takes any free port")
        require_ranges("stage.", self)
        listed = isinstance(self.pickers, list) and all(isinstance(path, str) for path in self.pickers)
        require(listed, "stage.pick_by", self.pick_by, "be a reward run or a list of them")
        if bool(self.pickers) != (self.pick is Pick.disagreement):
            raise ConfigError(
                f"stage.pick={self.pick.value} and stage.pick_by={self.pick_by} do not fit: the reward runs in "
                "stage.pick_by choose the pairs of stage.pick=disagreement; set both or none"
            )
        mapping = isinstance(self.titles, dict) and bool(self.titles)
        require(mapping, "stage.samples", self.samples, "map titles to runs of stage=sample")
        for title, path in self.titles.items():
            require(isinstance(path, str), f"stage.samples.{title}", path, "be text: put it in quotes")
        require(
            "judge" not in self.titles,
            "stage.samples",
            "judge",
            "not use the title of the judge",
        )


@dataclass(kw_only=True)
class ChatStage(Stage):
    """Settings of stage=chat. Lengths are in tokens."""

    policies: list[str]
    reward: str | None
    system: str | None
    temperature: float
    max_prompt_length: int
    max_response_length: int
    web: bool
    port: int
    preferences: str

    recorded: ClassVar[bool] = False

    def inputs(self) -> dict[str, Input]:
        """Return the reward model, if it exists; rlhf.labeling.chat finds the policies, which can be switched."""
        return {} if self.reward is None else {"reward": Input(self.reward, ("reward",), required=False)}

    def __post_init__(self) -> None:
        require_ranges("stage.", self)


@dataclass(kw_only=True)
class WatchStage(Stage):
    """Settings of stage=watch; conf/stage/watch.yaml explains each."""

    folder: str
    file: str | None
    every: float
    port: int

    recorded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_ranges("stage.", self)
