"""What every stage shares: the model, the data, the adapter, the hardware, the tracker."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from rlhf.config.rules import require, require_positive, require_type
from rlhf.errors import ConfigError


class Dtype(Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


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
    tldr_comparisons = "tldr_comparisons"
    alpaca = "alpaca"
    sharegpt = "sharegpt"


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
    """Where rows of one kind come from: a Hub data set, a local file, or a folder of files."""

    path: str | None
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
        require_positive("data.<source>", limit=self.limit, held_out_limit=self.held_out_limit)


@dataclass(kw_only=True)
class Data:
    name: str
    path: str | None
    format: Format
    holdout: float
    allow_leaks: bool
    gold: str | None
    judge: str | None
    ceiling: str | None
    text: Source
    demonstrations: Source
    preferences: Source
    prompts: Source

    def __post_init__(self) -> None:
        require(0 < self.holdout < 1, "data.holdout", self.holdout, "lie between 0 and 1")


@dataclass(kw_only=True)
class Adapter:
    kind: AdapterKind
    rank: int
    alpha: int
    dropout: float
    target_modules: Any

    def __post_init__(self) -> None:
        require_positive("adapter", rank=self.rank, alpha=self.alpha)
        require(0 <= self.dropout < 1, "adapter.dropout", self.dropout, "be at least 0 and below 1")
        names = self.target_modules if isinstance(self.target_modules, list) else [self.target_modules or ""]
        named = bool(names) and all(isinstance(name, str) for name in names)
        require(named, "adapter.target_modules", self.target_modules, "be null, a pattern or a list of names")


@dataclass(kw_only=True)
class Hardware:
    name: str
    device: str
    threads: int | None

    def __post_init__(self) -> None:
        require(self.device in ("auto", "cpu", "cuda"), "hardware.device", self.device, "be auto, cpu or cuda")
        require_positive("hardware", threads=self.threads)


@dataclass(kw_only=True)
class Tracker:
    kind: TrackerKind
    project: str
