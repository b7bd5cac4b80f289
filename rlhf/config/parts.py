"""What every stage shares: the model, the data, the adapter, the hardware, the tracker."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rlhf.config.ranges import require_ranges
from rlhf.config.rules import require, require_type
from rlhf.errors import ConfigError


class Dtype(Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Autocast(Enum):
    """Whether float32 weights are multiplied in bfloat16."""

    auto = "auto"  # on a GPU that has units for it
    on = "on"
    off = "off"


class AdapterKind(Enum):
    none = "none"
    lora = "lora"
    qlora = "qlora"


class Format(Enum):
    """How the rows of a source are laid out; the readers are in rlhf.data.formats."""

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
    """How a prompt that is a string is put to a model; rlhf.data.templates has the rule."""

    auto = "auto"  # by the chat template that the model knows or is given, without one as plain text
    chat = "chat"  # as one user message
    text = "text"  # as it stands


class Rankings(Enum):
    """Which pairs k ranked responses to one prompt give."""

    all = "all"  # each response with every worse one: k(k-1)/2 pairs
    best = "best"  # the best with every other: k-1 pairs
    best_worst = "best_worst"  # one pair


class Ties(Enum):
    """What becomes of two responses that were found equally good."""

    drop = "drop"
    both = "both"  # a pair in each direction, at half the weight


class TrackerKind(Enum):
    none = "none"
    tensorboard = "tensorboard"
    wandb = "wandb"
    trackio = "trackio"
    mlflow = "mlflow"


@dataclass(kw_only=True)
class Model:
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
        if self.path is None and self.architecture is None:
            raise ConfigError("model.path is null and model.architecture is null: give one of them")
        if self.path is None:
            require_type("model.architecture.vocabulary", self.architecture.get("vocabulary"), int)


@dataclass(kw_only=True)
class Source:
    """Where rows of one kind come from: a Hub data set, a local file, a folder of files, or several of them.

    ``mix`` maps paths to weights and takes the place of ``path``; the other settings hold for each of its parts.
    """

    path: str | None
    mix: Any  # null, or dict[str, float], whose null Hydra could not replace
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
        """Everything that is read; nothing where the source is not given."""
        return tuple(self.mix) if self.mix else () if self.path is None else (self.path,)


@dataclass(kw_only=True)
class Pairing:
    """How responses that were ranked, scored or voted on become pairs; the rules are in rlhf.data.pairs."""

    rankings: Rankings
    ties: Ties
    score_ratio: float

    def __post_init__(self) -> None:
        require_ranges("data.pairing.", self)


@dataclass(kw_only=True)
class Data:
    name: str
    path: str | None
    format: Format
    render: Render
    holdout: float
    allow_leaks: bool
    cache: str
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
    kind: AdapterKind
    rank: int
    alpha: int
    dropout: float
    target_modules: Any
    learning_rate_factor: float

    def __post_init__(self) -> None:
        require_ranges("adapter.", self)
        names = self.target_modules if isinstance(self.target_modules, list) else [self.target_modules or ""]
        named = bool(names) and all(isinstance(name, str) for name in names)
        require(named, "adapter.target_modules", self.target_modules, "be null, a pattern or a list of names")


class Strategy(Enum):
    """How the processes of a run share its training."""

    none = "none"  # there is one
    ddp = "ddp"  # a whole model in each, gradients averaged
    fsdp = "fsdp"  # FSDP2: weights, gradients and optimiser states in shards
    deepspeed_zero2 = "deepspeed_zero2"  # gradients and optimiser states in shards
    deepspeed_zero3 = "deepspeed_zero3"  # weights too

    @property
    def sharded(self) -> bool:
        """Whether it needs GPUs: accelerate would run something else on a CPU, without a word."""
        return self not in (Strategy.none, Strategy.ddp)


@dataclass(kw_only=True)
class Hardware:
    """Device, and the processes that share a run; rlhf.hardware.ranks counts them, rlhf.hardware.launch starts them."""

    name: str
    device: str  # auto, cpu or cuda
    threads: int | None  # of torch, in each process
    autocast: Autocast
    strategy: Strategy
    processes: int | None  # on each machine; None: one a GPU
    nodes: int  # machines
    node_rank: int | None  # which of them this is; None: told by the address of ``rendezvous``
    rendezvous: str | None  # host:port
    run_id: str  # of those that meet there
    oom_retry: bool  # a micro-batch that memory does not suffice for
    plan: bool  # say what the stage would take, and train nothing

    def __post_init__(self) -> None:
        require(self.device in ("auto", "cpu", "cuda"), "hardware.device", self.device, "be auto, cpu or cuda")
        require_ranges("hardware.", self)
        one = self.processes in (None, 1) and self.nodes == 1
        if self.strategy is Strategy.none and not one:
            raise ConfigError(
                f"hardware.processes={self.processes} on hardware.nodes={self.nodes} share nothing under "
                "hardware.strategy=none: give hardware=ddp, or hardware.strategy=ddp"
            )
        if self.strategy.sharded:
            where = f"be cuda under hardware.strategy={self.strategy.value}, whose shards lie on GPUs"
            require(self.device != "cpu", "hardware.device", self.device, where)
            require(not self.oom_retry, "hardware.oom_retry", self.oom_retry, f"be false under {self.strategy.value}")
        if self.nodes > 1:
            host, _, port = (self.rendezvous or "").rpartition(":")
            address = bool(host) and port.isdigit()
            require(address, "hardware.rendezvous", self.rendezvous, "be the host:port where the machines meet")
        inside = self.node_rank is None or 0 <= self.node_rank < self.nodes
        require(inside, "hardware.node_rank", self.node_rank, f"be below hardware.nodes={self.nodes}")


@dataclass(kw_only=True)
class Tracker:
    kind: TrackerKind
    project: str
