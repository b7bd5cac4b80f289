"""The settings that all stages share, and those that all training stages share."""

from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, ClassVar, NamedTuple, TypeVar

from rlhf.config.ranges import require_ranges, require_trainer
from rlhf.errors import ConfigError


class SharedPrefix(Enum):
    """Whether a prompt that several rows of a batch share is encoded only once."""

    auto = "auto"  # for architectures known to support it; a line is printed otherwise
    on = "on"
    off = "off"


class Input(NamedTuple):
    """Path that a stage starts from: a run of one of ``stages``, or a model from elsewhere.

    With ``update`` it is a checkpoint of a run, which may be unfinished.
    """

    path: str
    stages: tuple[str, ...]
    required: bool = True
    update: int | None = None


# Stages that end with a policy that responds, the last of a chain at the end.
POLICIES = ("sft", "raft", "online_dpo", "kto", "dpo", "ppo", "merge")


@dataclass(kw_only=True)
class Stage:
    """Settings of a stage. ``name`` selects conf/stage/<name>.yaml and rlhf/stages/<name>.py."""

    name: str

    reads: ClassVar[tuple[str, ...]] = ()  # sources in ``Data`` that the stage reads
    repeats: ClassVar[bool] = False  # whether a rerun replaces the old results without overwrite=true
    recorded: ClassVar[bool] = True  # whether the stage writes a run; else it only shows or asks something
    shared: ClassVar[bool] = False  # whether several processes can share a run
    measured: ClassVar[bool] = False  # whether its policy is measured at the end, by ``eval_set``

    @property
    def judged(self) -> bool:
        """Whether the results depend on ``judge``."""
        return False

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources in ``Data`` that the stage reads under its settings."""
        return self.reads

    def inputs(self) -> dict[str, Input]:
        """Return role -> input of the stage."""
        return {}


S = TypeVar("S", bound=Stage)


def part_of(stage: Stage, kind: type[S], **others: Any) -> S:
    """Return the settings of a stage that runs as a part of ``stage``: ``others``, and the settings of both."""
    shared: dict[str, Any] = {one.name: getattr(stage, one.name) for one in fields(kind) if hasattr(stage, one.name)}
    return kind(**shared | others)


@dataclass(kw_only=True)
class TrainedStage(Stage):
    """Settings of every training stage. Lengths are in tokens."""

    policy: Any  # str; also None in stage=base
    sample_every: int
    sample_prompts: int
    sample_length: int

    shared: ClassVar[bool] = True
    starts_from: ClassVar[tuple[str, ...]] = POLICIES  # stages whose policy can be the parent

    def inputs(self) -> dict[str, Input]:
        """Return the policy that training starts from, if any."""
        return {} if self.policy is None else {"policy": Input(self.policy, self.starts_from)}

    def __post_init__(self) -> None:
        require_ranges("stage.", self)


@dataclass(kw_only=True)
class TrainerStage(TrainedStage):
    """Settings of the stages that train with a Trainer of TRL or transformers, which ``trainer`` is passed to."""

    early_stopping: int | None
    trainer: dict[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        require_trainer(self.trainer)
        if self.early_stopping is None:
            return
        if self.trainer.get("eval_strategy") != "steps":
            raise ConfigError(
                f"stage.early_stopping={self.early_stopping} needs a held-out loss every "
                "stage.trainer.save_steps: set stage.trainer.eval_strategy=steps, too"
            )
        every, saved = self.trainer.get("eval_steps"), self.trainer.get("save_steps")
        if every not in (None, saved):
            raise ConfigError(
                f"stage.trainer.eval_steps={every} must be stage.trainer.save_steps={saved} with stage.early_stopping, "
                "which keeps a checkpoint of each evaluation: leave it out, or set both"
            )
