"""The settings of the stages that collect preferences: responses are sampled, then pairs of them are labelled."""

from dataclasses import dataclass
from typing import Any, ClassVar

from rlhf.config.ranges import require_ranges
from rlhf.config.rules import require
from rlhf.config.stage import Input, Stage

SPLITS = ("train", "validation", "test")


@dataclass(kw_only=True)
class SampleStage(Stage):
    """Lengths are in tokens."""

    policy: str
    reward: str | None
    split: str
    prompts: int | None
    samples: int
    temperature: float
    batch_size: int
    max_prompt_length: int
    max_response_length: int

    reads: ClassVar[tuple[str, ...]] = ("prompts",)

    def inputs(self) -> dict[str, Input]:
        policy = {"policy": Input(self.policy, ("base", "sft", "dpo", "ppo"))}
        return policy | ({} if self.reward is None else {"reward": Input(self.reward, ("reward",))})

    def __post_init__(self) -> None:
        require_ranges("stage.", self)
        require(self.split in SPLITS, "stage.split", self.split, f"be one of {', '.join(SPLITS)}")


@dataclass(kw_only=True)
class LabelStage(Stage):
    """``samples`` maps titles to runs of stage=sample, whose responses meet; where it is null ``sample`` is the one."""

    sample: str
    samples: Any
    pairs: int
    limit: int | None
    annotators: int
    port: int

    judged: ClassVar[bool] = True

    def inputs(self) -> dict[str, Input]:
        return {title: Input(path, ("sample",)) for title, path in self.titles.items()}

    @property
    def titles(self) -> dict[str, str]:
        return {"sample": self.sample} if self.samples is None else self.samples

    def __post_init__(self) -> None:
        require(0 <= self.port < 65536, "stage.port", self.port, "lie in [0, 65535]; 0 takes any that is free")
        require_ranges("stage.", self)
        mapping = isinstance(self.titles, dict) and bool(self.titles)
        require(mapping, "stage.samples", self.samples, "map titles to runs of stage=sample")
        for title, path in self.titles.items():
            require(isinstance(path, str), f"stage.samples.{title}", path, "be text: put it in quotes")
        require("judge" not in self.titles, "stage.samples", "judge", "leave that title to the judge")
