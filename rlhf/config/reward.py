"""The settings of stage=reward and stage=evaluate_reward."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from rlhf.config.ranges import require_ranges
from rlhf.config.rules import require
from rlhf.config.stage import POLICIES, Input, SharedPrefix, Stage, TrainerStage
from rlhf.errors import ConfigError

NEGATIVES = ("swapped", "mirrored", "sampled", "truncated", "repeated")  # rlhf/preference/negatives.py
STYLE = ("length", "headers", "bold", "lists")  # rlhf/preference/residual.py


class RewardLoss(Enum):
    """Loss over single pairs, or over the ranking formed by the pairs of a prompt."""

    bradley_terry = "bradley_terry"
    plackett_luce = "plackett_luce"


class Benchmark(Enum):
    """A public benchmark of reward models; rlhf/evaluation/benchmarks reads and defines each."""

    rewardbench = "rewardbench"
    rewardbench2 = "rewardbench2"
    rm_bench = "rm_bench"
    judgebench = "judgebench"
    llmbar = "llmbar"
    rmb = "rmb"
    ppe = "ppe"


@dataclass(kw_only=True)
class CardStage(Stage):
    """Settings of the stages that write a report card."""

    probe_rows: int
    autopsies: int
    tfidf_pairs: int
    calibration_bins: int
    bootstrap: int
    statistics_prompts: int
    statistics_temperature: float

    def __post_init__(self) -> None:
        require_ranges("stage.", self)


@dataclass(kw_only=True)
class RewardStage(CardStage, TrainerStage):
    """Settings of stage=reward; conf/stage/reward.yaml explains each."""

    policy: str
    loss: RewardLoss
    margin: bool
    label_smoothing: float
    batch_sum: float
    balance_lengths: int | None
    residual: list[str]
    residual_rate: float
    negatives: Any
    sampler: str
    ensemble: int
    average: int | None
    distance_rows: int
    shared_prefix: SharedPrefix

    reads: ClassVar[tuple[str, ...]] = ("preferences",)

    def __post_init__(self) -> None:
        TrainerStage.__post_init__(self)
        several = self.average is None or self.ensemble > 1
        require(several, "stage.average", self.average, "be null unless stage.ensemble is above 1")
        for name in self.residual:
            require(name in STYLE, "stage.residual", name, f"name some of {', '.join(STYLE)}")
        once = len(set(self.residual)) == len(self.residual)
        require(once, "stage.residual", self.residual, "name each style once")
        given: Any = {} if self.negatives is None else self.negatives
        require(isinstance(given, dict), "stage.negatives", given, "map kinds to shares of the training pairs")
        for kind, share in given.items():
            require(kind in NEGATIVES, "stage.negatives", kind, f"name some of {', '.join(NEGATIVES)}")
            number = isinstance(share, int | float) and not isinstance(share, bool)
            require(number and 0 < share <= 1, f"stage.negatives.{kind}", share, "lie in (0, 1]")
        pairwise = {
            f"negatives={given}": bool(given),
            f"residual={self.residual}": bool(self.residual),
            "margin=true": self.margin,
            f"label_smoothing={self.label_smoothing}": self.label_smoothing > 0,
        }
        for option, given in pairwise.items():
            if given and self.loss is RewardLoss.plackett_luce:
                raise ConfigError(
                    f"stage.{option} needs pairs, but stage.loss=plackett_luce learns rankings: set only one of them"
                )

    def inputs(self) -> dict[str, Input]:
        """Return the policy, and the model of sampled negatives."""
        sampler = {"sampler": Input(self.sampler, ("base", *POLICIES))} if "sampled" in (self.negatives or {}) else {}
        return super().inputs() | sampler


@dataclass(kw_only=True)
class EvaluateRewardStage(CardStage):
    """Settings of stage=evaluate_reward. ``policy`` is a baseline by its log-probabilities; null skips it."""

    reward: str
    members: list[str]
    benchmark: Benchmark | None
    benchmark_path: str | None
    prior_sets: str | None
    policy: str | None
    sample_length: int
    max_length: int | None
    batch_size: int
    rubric: str | None
    scale: int

    reads: ClassVar[tuple[str, ...]] = ("preferences",)

    def __post_init__(self) -> None:
        super().__post_init__()
        named = None if self.benchmark is None else self.benchmark.value
        given = {"members": self.members, "benchmark_path": self.benchmark_path, "prior_sets": self.prior_sets}
        for key, value in given.items():
            require(named is not None or not value, f"stage.{key}", value, "be left out without stage.benchmark")
        if named is None:
            return
        own = self.prior_sets is None or self.benchmark is Benchmark.rewardbench
        require(own, "stage.prior_sets", self.prior_sets, "be null unless stage.benchmark=rewardbench")
        require(self.policy is None, "stage.policy", self.policy, f"be null with stage.benchmark={named}")
        require(not (self.rubric and self.members), "stage.members", self.members, "be empty with stage.rubric")
        require(
            bool(self.benchmark_path), "stage.benchmark_path", self.benchmark_path, "be a file or folder as released"
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """The pairs of the data, unless a benchmark replaces them."""
        return self.reads if self.benchmark is None else ()

    @property
    def judged(self) -> bool:
        """Whether ``judge`` is evaluated, with ``rubric``, instead of a reward model."""
        return self.rubric is not None

    def inputs(self) -> dict[str, Input]:
        """Return the reward model and the policy it is compared with; none if a judge is evaluated."""
        if self.rubric is not None:
            return {}
        policies = ("base", *POLICIES)
        policy = {} if self.policy is None else {"policy": Input(self.policy, policies)}
        members = {f"members.{number}": Input(path, ("reward",)) for number, path in enumerate(self.members)}
        return {"reward": Input(self.reward, ("reward",))} | members | policy
