"""What all stages have in common, and what those that train have."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, NamedTuple

from rlhf.config.ranges import require_ranges, require_trainer


class SharedPrefix(Enum):
    """Whether what several rows of a batch begin with, a prompt, is computed once."""

    auto = "auto"  # where the architecture is known to be right; else it is told
    on = "on"
    off = "off"


class Input(NamedTuple):
    """Something that a stage starts from: a run of one of ``stages``, or a model that is no run of ours."""

    path: str
    stages: tuple[str, ...]
    required: bool = True


@dataclass(kw_only=True)
class Stage:
    """One rung of the progression. ``name`` selects conf/stage/<name>.yaml and rlhf/stages/<name>.py alike."""

    name: str

    reads: ClassVar[tuple[str, ...]] = ()  # the sources in ``Data`` that this stage reads
    repeats: ClassVar[bool] = False  # whether running it again replaces what it wrote before without being asked
    shared: ClassVar[bool] = False  # whether several processes can run it together
    judged: ClassVar[bool] = False  # whether ``judge`` decides what this stage writes
    measured: ClassVar[bool] = False  # whether its policy is measured at the end as ``eval_set`` says

    def inputs(self) -> dict[str, Input]:
        """Role -> what the stage starts from."""
        return {}


@dataclass(kw_only=True)
class TrainedStage(Stage):
    """What every stage that trains has in common. Lengths are in tokens."""

    policy: str | None
    sample_every: int
    sample_prompts: int
    sample_length: int

    shared: ClassVar[bool] = True
    starts_from: ClassVar[tuple[str, ...]] = ("sft", "dpo", "ppo")  # the stages whose policy may be the parent

    def inputs(self) -> dict[str, Input]:
        return {} if self.policy is None else {"policy": Input(self.policy, self.starts_from)}

    def __post_init__(self) -> None:
        require_ranges("stage.", self)
        require_trainer(getattr(self, "trainer", {}))
