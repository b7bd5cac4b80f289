"""The settings that all stages share: model, data, adapter, hardware and tracker."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rlhf.config.ranges import require_ranges
from rlhf.config.rules import require, require_type
from rlhf.errors import ConfigError


class Dtype(Enum):
    """Type of the weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Autocast(Enum):
    """Whether matrix products of float32 weights are computed in bfloat16."""

    auto = "auto"  # on a GPU with bfloat16 units
    on = "on"
    off = "off"


class AdapterKind(Enum):
    """Kind of adapter; ``none`` trains every weight."""

    none = "none"
    lora = "lora"
    qlora = "qlora"


class Format(Enum):
    """Layout of the rows of a source; the readers are in rlhf.data.formats."""

    auto = "auto"
    standard = "standard"
    hh = "hh"
    ultrafeedback = "ultrafeedback"
    ultrafeedback_raw = "ultrafeedback_raw"
    tldr_comparisons = "tldr_comparisons"
    helpsteer = "helpsteer"
    nectar = "nectar"
    scores = "scores"
    shp = "shp"
    kto = "kto"
    arena = "arena"
    alpaca_eval = "alpaca_eval"
    oasst = "oasst"
    alpaca = "alpaca"
    sharegpt = "sharegpt"
    reward_bench = "reward_bench"
    pku = "pku"
    pku_safer = "pku_safer"
    webgpt = "webgpt"
    stack_exchange = "stack_exchange"
    judgebench = "judgebench"
    llmbar = "llmbar"
    pandalm = "pandalm"
    auto_j = "auto_j"
    openai = "openai"
    helpsteer_edits = "helpsteer_edits"
    nemo = "nemo"
    distilabel = "distilabel"


class Render(Enum):
    """Rendering of a prompt that is a string; rlhf.data.templates has the rule."""

    auto = "auto"  # with the chat template, or as plain text if the model has none
    chat = "chat"  # as one user message
    text = "text"  # unchanged


class Rankings(Enum):
    """Pairs that are built from k ranked responses to one prompt."""

    all = "all"  # each response with every worse one: k(k-1)/2 pairs
    best = "best"  # the best with every other one: k-1 pairs
    best_worst = "best_worst"  # the best with the worst: one pair


class Ties(Enum):
    """Treatment of two responses that are equally good."""

    drop = "drop"
    both = "both"  # a pair in each direction, at half the weight


class TrackerKind(Enum):
    """Service that metrics are sent to."""

    none = "none"
    tensorboard = "tensorboard"
    wandb = "wandb"
    trackio = "trackio"
    mlflow = "mlflow"


@dataclass(kw_only=True)
class Model:
    """Settings of the base model; ``architecture`` builds one with random weights if ``path`` is null."""

    name: str
    path: str | None
    pretrained: str
    revision: str | None
    dtype: Dtype
    attention: str | None
    chat_template: str | None
    trust_remote_code: bool
    architecture: dict[str, Any] | None

    def __post_init__(self) -> None:
        if self.path is None:
            if self.architecture is None:
                raise ConfigError("model.path is null and model.architecture is null: set one of them")
            require_type("model.architecture.vocabulary", self.architecture.get("vocabulary"), int)

    def new(self, cause: str) -> tuple[dict[str, Any], str]:
        """Return the architecture and the chat template of a new model; ``cause`` is the setting that needs one.

        Raises:
            ConfigError: one of them is null.
        """
        if self.architecture is None or self.chat_template is None:
            missing = "architecture" if self.architecture is None else "chat_template"
            raise ConfigError(f"{cause} trains a new model, and model.{missing} is null: set one of them")
        return self.architecture, self.chat_template


@dataclass(kw_only=True)
class Source:
    """Source of the rows of one kind: a Hub data set, a local file, a folder of files, or several of them.

    ``mix`` maps paths to weights and replaces ``path``; the other settings apply to each of its parts.
    """

    path: str | None
    mix: Any  # null or dict[str, float]; Any, since Hydra cannot override a null of that type
    format: Format
    subset: str | None
    revision: str | None
    train: str
    validation: str | None
    test: str | None
    limit: int | None
    held_out_limit: int | None
    drop_identical: bool

    def __post_init__(self) -> None:
        require_ranges("data.<source>.", self)
        mapping = self.mix is None or (isinstance(self.mix, dict) and bool(self.mix))
        require(mapping, "data.<source>.mix", self.mix, "be null, or map files, folders or Hub ids to weights")
        for path, weight in (self.mix or {}).items():
            number = isinstance(weight, int | float) and not isinstance(weight, bool)
            require(number and 0 < weight < math.inf, f"data.<source>.mix[{path}]", weight, "be positive and finite")

    @property
    def paths(self) -> tuple[str, ...]:
        """Return all paths that are read; empty if the source is not set."""
        return tuple(self.mix) if self.mix else () if self.path is None else (self.path,)


@dataclass(kw_only=True)
class Pairing:
    """How pairs are built from ranked, scored or voted responses; the rules are in rlhf.data.pairs."""

    rankings: Rankings
    ties: Ties
    score_ratio: float

    def __post_init__(self) -> None:
        require_ranges("data.pairing.", self)


@dataclass(kw_only=True)
class Data:
    """Settings of the data: four sources and what they share."""

    name: str
    path: str | None
    format: Format
    render: Render
    holdout: float
    allow_leaks: bool
    cache: str
    processes: int | None
    pairing: Pairing
    gold: str | None
    judge: str | None
    ceiling: str | None
    text: Source
    demonstrations: Source
    preferences: Source
    prompts: Source

    def __post_init__(self) -> None:
        require_ranges("data.", self)


@dataclass(kw_only=True)
class Adapter:
    """Settings of LoRA and QLoRA."""

    kind: AdapterKind
    rank: int
    alpha: int
    dropout: float
    target_modules: Any
    layers: int | None
    learning_rate_factor: float

    def __post_init__(self) -> None:
        require_ranges("adapter.", self)
        names = self.target_modules if isinstance(self.target_modules, list) else [self.target_modules or ""]
        named = bool(names) and all(isinstance(name, str) for name in names)
        require(named, "adapter.target_modules", self.target_modules, "be null, a pattern or a list of names")


class Strategy(Enum):
    """How the processes of a run divide the training."""

    none = "none"  # a single process
    ddp = "ddp"  # each holds the whole model; gradients are averaged
    fsdp = "fsdp"  # FSDP2: weights, gradients and optimizer states are sharded
    deepspeed_zero2 = "deepspeed_zero2"  # gradients and optimizer states are sharded
    deepspeed_zero3 = "deepspeed_zero3"  # weights, too

    @property
    def sharded(self) -> bool:
        """Return whether the strategy needs GPUs: on a CPU accelerate would silently run another one."""
        return self not in (Strategy.none, Strategy.ddp)


@dataclass(kw_only=True)
class Hardware:
    """Device and processes of a run; rlhf.hardware.ranks counts them, rlhf.hardware.launch starts them."""

    name: str
    device: str  # auto, cpu, cuda or mps
    threads: int | None  # torch threads per process
    autocast: Autocast
    strategy: Strategy
    processes: int | None  # per machine; None: one per GPU
    nodes: int  # number of machines
    node_rank: int | None  # index of this machine; None: detected from the address of ``rendezvous``
    rendezvous: str | None  # host:port
    run_id: str  # distinguishes runs at the same rendezvous
    oom_retry: bool  # halve the micro-batch when memory runs out
    plan: bool  # print the memory and time that the stage needs, without training

    def __post_init__(self) -> None:
        known = ("auto", "cpu", "cuda", "mps")
        require(self.device in known, "hardware.device", self.device, "be auto, cpu, cuda or mps")
        require_ranges("hardware.", self)
        one = self.processes in (None, 1) and self.nodes == 1
        if self.strategy is Strategy.none and not one:
            raise ConfigError(
                f"hardware.processes={self.processes} on hardware.nodes={self.nodes} cannot divide the "
                "training under hardware.strategy=none: set hardware=ddp, or hardware.strategy=ddp"
            )
        if self.strategy.sharded:
            rule = f"be cuda under hardware.strategy={self.strategy.value}, which shards over GPUs"
            require(self.device in ("auto", "cuda"), "hardware.device", self.device, rule)
            require(not self.oom_retry, "hardware.oom_retry", self.oom_retry, f"be false under {self.strategy.value}")
        if self.strategy is not Strategy.none:
            require(self.device != "mps", "hardware.strategy", self.strategy.value, "stay none on an Apple GPU")
        if self.nodes > 1:
            host, _, port = (self.rendezvous or "").rpartition(":")
            address = bool(host) and port.isdigit()
            require(address, "hardware.rendezvous", self.rendezvous, "be the host:port at which the machines meet")
        inside = self.node_rank is None or 0 <= self.node_rank < self.nodes
        require(inside, "hardware.node_rank", self.node_rank, f"be below hardware.nodes={self.nodes}")


@dataclass(kw_only=True)
class Tracker:
    """Settings of the experiment tracker."""

    kind: TrackerKind
    project: str
