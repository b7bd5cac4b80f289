"""The settings of each stage, and its inputs."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from rlhf.config.compare import CompareStage
from rlhf.config.labeling import ChatStage, LabelStage, SampleStage, WatchStage
from rlhf.config.merge import MergeStage
from rlhf.config.parts import Rankings
from rlhf.config.plan import PlanStage
from rlhf.config.ppo import PPOStage
from rlhf.config.publish import ExportStage, PublishStage
from rlhf.config.ranges import require_ranges
from rlhf.config.reward import EvaluateRewardStage, RewardStage
from rlhf.config.rewards import ScoredStage
from rlhf.config.rules import require
from rlhf.config.stage import POLICIES, Input, SharedPrefix, Stage, TrainerStage
from rlhf.config.sweep import LadderStage, OveroptimizeStage, SweepStage
from rlhf.errors import ConfigError


@dataclass(kw_only=True)
class StatusStage(Stage):
    """Settings of stage=status."""

    recorded: ClassVar[bool] = False


@dataclass(kw_only=True)
class BaseStage(TrainerStage):
    """Settings of stage=base; a null ``policy`` starts from random weights."""

    policy: str | None
    block_length: int

    reads: ClassVar[tuple[str, ...]] = ("text",)
    starts_from: ClassVar[tuple[str, ...]] = ("base",)


class Turns(Enum):
    """Turns of the assistant that count in the loss."""

    all = "all"
    last = "last"


@dataclass(kw_only=True)
class SFTStage(TrainerStage):
    """Settings of stage=sft; conf/stage/sft.yaml explains each."""

    policy: str
    turns: Turns

    reads: ClassVar[tuple[str, ...]] = ("demonstrations",)
    starts_from: ClassVar[tuple[str, ...]] = ("base", "sft")


# The losses of TRL 1.16, which does not check the name before the first step.
LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip


SMOOTHED = ("sigmoid", "robust", "exo_pair", "aot", "aot_unpaired")  # losses that label_smoothing changes
OWN_LOSSES = ("simpo", "orpo")  # of rlhf/preference/losses.py
REFERENCE_FREE = (*OWN_LOSSES, "sft")


@dataclass(kw_only=True)
class PreferenceStage(TrainerStage):
    """Settings of the stages that train a policy on judged responses, beside a reference."""

    policy: str
    beta: float
    shared_prefix: SharedPrefix
    cache_reference: bool

    reads: ClassVar[tuple[str, ...]] = ("preferences", "prompts")  # prompts: for eval_set
    measured: ClassVar[bool] = True

    @property
    def reference_free(self) -> bool:
        """Return whether no loss reads the reference."""
        return False


@dataclass(kw_only=True)
class DPOStage(PreferenceStage):
    """Settings of stage=dpo; conf/stage/dpo.yaml explains each."""

    loss: list[str]
    reference: Any  # str or None; stage=online_dpo has a Reference
    gamma_beta_ratio: float | None
    label_smoothing: float

    def inputs(self) -> dict[str, Input]:
        """Return the policy, and the reference if it is another model."""
        named = {"reference": Input(self.reference, self.starts_from)} if isinstance(self.reference, str) else {}
        return super().inputs() | named

    @property
    def reference_free(self) -> bool:
        """Return whether no loss reads the reference."""
        return {*self.loss} <= {*REFERENCE_FREE}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_losses()
        self._check_arguments()

    def _check_losses(self) -> None:
        once = bool(self.loss) and len({*self.loss}) == len(self.loss)
        require(once, "stage.loss", self.loss, "name one loss or more, each once")
        for name in self.loss:
            require(name in LOSSES + OWN_LOSSES, "stage.loss", name, f"be one of {', '.join(LOSSES + OWN_LOSSES)}")
        if self.gamma_beta_ratio is not None and "simpo" not in self.loss:
            raise ConfigError(
                f"stage.gamma_beta_ratio={self.gamma_beta_ratio} has no effect under stage.loss={self.loss}: "
                "leave it out, or use simpo"
            )
        given = self.gamma_beta_ratio is not None or "simpo" not in self.loss
        require(given, "stage.gamma_beta_ratio", None, "be a number for stage.loss=[simpo], 0 for no target margin")
        for name in self.loss:
            if self.label_smoothing and (name not in (*SMOOTHED, "sft") or self.loss == ["sft"]):
                raise ConfigError(
                    f"stage.label_smoothing={self.label_smoothing} has no effect under stage.loss=[{name}]: "
                    f"leave it out, or use one of {', '.join(SMOOTHED)}"
                )
        smooth = self.label_smoothing > 0 or "exo_pair" not in self.loss
        require(smooth, "stage.label_smoothing", self.label_smoothing, "be above 0 for stage.loss=[exo_pair]")

    def _check_arguments(self) -> None:
        if self.reference_free and isinstance(self.reference, str):
            raise ConfigError(
                f"stage.reference={self.reference} has no effect under stage.loss={self.loss}: leave it out"
            )
        weights = self.trainer.get("loss_weights")
        if weights is not None and len(weights) != len(self.loss):
            raise ConfigError(
                f"stage.trainer.loss_weights={list(weights)} must have a weight for each of stage.loss={self.loss}"
            )
        for name in ("sync_ref_model", "ld_alpha", "use_weighting"):
            unread = self.reference_free if name == "sync_ref_model" else {*self.loss} & {*OWN_LOSSES}
            if self.trainer.get(name) and unread:
                key = f"stage.trainer.{name}={self.trainer[name]}"
                raise ConfigError(f"{key} has no effect under stage.loss={self.loss}: leave it out")
        for name in ("sync_ref_model", "ld_alpha"):
            if self.cache_reference and self.trainer.get(name):
                raise ConfigError(
                    f"stage.trainer.{name}={self.trainer[name]} needs the reference's log-probabilities at every step: "
                    "set stage.cache_reference=false, too"
                )


class KTOLoss(Enum):
    """Loss of a single response; the second one has no reference point."""

    kto = "kto"
    apo_zero_unpaired = "apo_zero_unpaired"


@dataclass(kw_only=True)
class KTOStage(PreferenceStage):
    """Settings of stage=kto; conf/stage/kto.yaml explains each."""

    loss: KTOLoss
    desirable_weight: float | None
    undesirable_weight: float | None
    desirable_from: float | None

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = self.trainer.get("per_device_train_batch_size", 2)
        rule = "be 2 or more for stage.loss=kto, whose reference point is a mean over the batch"
        require(self.loss is not KTOLoss.kto or rows > 1, "stage.trainer.per_device_train_batch_size", rows, rule)
        if self.cache_reference and self.trainer.get("sync_ref_model"):
            raise ConfigError(
                "stage.trainer.sync_ref_model=True needs the reference's log-probabilities at every step: "
                "set stage.cache_reference=false, too"
            )


class Reference(Enum):
    """Reference of each round of online DPO: the policy that the stage starts from, or the one of the last round."""

    fixed = "fixed"
    moving = "moving"


@dataclass(kw_only=True)
class OnlineDPOStage(ScoredStage, DPOStage):
    """Settings of stage=online_dpo; conf/stage/online_dpo.yaml explains each."""

    rounds: int
    reference: Reference
    samples: int
    prompts: int | None
    pairs: Rankings
    batch_size: int
    stop_early: bool

    reads: ClassVar[tuple[str, ...]] = ("prompts",)

    @property
    def judged(self) -> bool:
        """Whether the results depend on ``judge``."""
        return True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_terms()


@dataclass(kw_only=True)
class RAFTStage(ScoredStage, SFTStage):
    """Settings of stage=raft; conf/stage/raft.yaml explains each."""

    samples: int
    prompts: int | None
    batch_size: int
    control: bool

    reads: ClassVar[tuple[str, ...]] = ("prompts",)
    measured: ClassVar[bool] = True
    starts_from: ClassVar[tuple[str, ...]] = TrainerStage.starts_from

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_terms()
        if not self.scores:
            raise ConfigError("stage.reward is null and stage.rewards has no term: set one of them")


@dataclass(kw_only=True)
class InspectStage(Stage):
    """Settings of stage=inspect; conf/stage/inspect.yaml explains each."""

    tokenizer: str | None
    max_length: int
    examples: int
    near_duplicates: int
    similarity: float
    languages: int

    reads: ClassVar[tuple[str, ...]] = ("text", "demonstrations", "preferences", "prompts")

    def inputs(self) -> dict[str, Input]:
        """Return the run or model whose tokenizer counts tokens, if any."""
        policies = ("base", *POLICIES)
        return {} if self.tokenizer is None else {"tokenizer": Input(self.tokenizer, policies, required=False)}

    def __post_init__(self) -> None:
        require_ranges("stage.", self)


@dataclass(kw_only=True)
class ProgressionStage(Stage):
    """Settings of stage=progression. ``overrides``: stage -> its further settings, e.g. ``{dpo: [stage.beta=0.3]}``."""

    stages: list[str]
    overrides: Any

    def __post_init__(self) -> None:
        mapping = self.overrides is None or isinstance(self.overrides, dict)
        require(mapping, "stage.overrides", self.overrides, "map stages to lists of settings")
        for name, settings in (self.overrides or {}).items():
            require(isinstance(settings, list), f"stage.overrides.{name}", settings, "be a list of settings")
        for key, names in {"stages": self.stages, "overrides": self.overrides or {}}.items():
            for name in names:
                require(name in PROGRESSION, f"stage.{key}", name, f"name one of {', '.join(PROGRESSION)}")


STAGES: dict[str, type[Stage]] = {
    "status": StatusStage,
    "inspect": InspectStage,
    "base": BaseStage,
    "sft": SFTStage,
    "reward": RewardStage,
    "evaluate_reward": EvaluateRewardStage,
    "dpo": DPOStage,
    "kto": KTOStage,
    "ppo": PPOStage,
    "merge": MergeStage,
    "online_dpo": OnlineDPOStage,
    "raft": RAFTStage,
    "compare": CompareStage,
    "publish": PublishStage,
    "export": ExportStage,
    "sample": SampleStage,
    "label": LabelStage,
    "chat": ChatStage,
    "watch": WatchStage,
    "progression": ProgressionStage,
    "sweep": SweepStage,
    "ladder": LadderStage,
    "overoptimize": OveroptimizeStage,
    "plan": PlanStage,
}
CHAINS = ("progression", "ladder", "overoptimize")  # stages that run others; rlhf/cli has a file of each
PROGRESSION = ("base", "sft", "reward", "dpo", "ppo", "compare")
