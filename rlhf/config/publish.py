"""The settings of stage=publish and stage=export: the run, its form and its destination."""

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from rlhf.config.parts import Dtype
from rlhf.config.ranges import require_ranges
from rlhf.config.rules import require
from rlhf.config.stage import POLICIES, Input, Stage
from rlhf.errors import ConfigError

REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
REVISION = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)*")
COMMIT = re.compile(r"[0-9a-f]{40}")
SIZE = re.compile(r"[1-9]\d*(KB|MB|GB)")
PUBLISHED = ("base", "reward", *POLICIES)


class Publish(Enum):
    """``run``: one repository; ``chain``: one for the run and for each parent that is not on the Hub yet."""

    run = "run"
    chain = "chain"


class Weights(Enum):
    """``merged``: a complete model; ``adapter``: the trained adapter, for a base that is on the Hub."""

    merged = "merged"
    adapter = "adapter"


@dataclass(kw_only=True)
class PublishStage(Stage):
    """Settings of stage=publish; conf/stage/publish.yaml explains each."""

    run: str
    compare: str | None
    export: str | None
    repo: str | None
    dry_run: bool | None
    publish: Publish
    weights: Weights
    dtype: Dtype | None
    max_shard_size: str
    private: bool
    branch: str
    tag: str | None
    parent_commit: str | None
    collection: str | None
    base: str | None
    license: str | None
    licenses: dict[str, Any]
    samples: int
    verify: bool
    attempts: int
    wait: float

    repeats: ClassVar[bool] = True

    @property
    def dry(self) -> bool:
        """Return whether nothing is uploaded."""
        return self.repo is None if self.dry_run is None else self.dry_run

    def inputs(self) -> dict[str, Input]:
        """Return the run to upload, and the comparison and the export that its card shows."""
        beside = {name: getattr(self, name) for name in ("compare", "export")}
        return {"run": Input(self.run, PUBLISHED)} | {
            name: Input(given or str(Path(self.run).parent / name), (name,), required=given is not None)
            for name, given in beside.items()
        }

    def __post_init__(self) -> None:
        named = self.repo is None or REPO.fullmatch(self.repo)
        require(bool(named), "stage.repo", self.repo, "be the name of a repository, such as me/almanac-ppo")
        require(self.repo is not None or self.dry, "stage.dry_run", False, "be true if stage.repo is not set")
        for key in ("branch", "tag"):
            value = getattr(self, key)
            require(value is None or bool(REVISION.fullmatch(value)), f"stage.{key}", value, "be a valid git ref name")
        commit = self.parent_commit
        seen = commit is None or bool(COMMIT.fullmatch(commit))
        require(seen, "stage.parent_commit", commit, "be a commit hash of 40 hexadecimal digits")
        require(bool(SIZE.fullmatch(self.max_shard_size)), "stage.max_shard_size", self.max_shard_size, "be like 5GB")
        base = self.base is None or self.base == "none" or bool(REPO.fullmatch(self.base.partition("@")[0]))
        require(base, "stage.base", self.base, "be a Hub id such as org/name, or none")
        require_ranges("stage.", self)


class ExportFormat(Enum):
    """Form of an exported model."""

    merged = "merged"  # safetensors with adapters merged, for transformers, vLLM and TGI
    gguf = "gguf"  # one file, for llama.cpp and LM Studio
    ollama = "ollama"  # a GGUF file and a Modelfile
    onnx = "onnx"  # refused: optimum converts the merged folder


class Quantization(Enum):
    """Type of the weight matrices in a GGUF file."""

    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"
    q8_0 = "q8_0"  # 8 bits per weight, and a scale per 32 weights
    q5_1 = "q5_1"  # 5 bits, a scale and a minimum per 32 weights; embeddings and output as q8_0
    q5_0 = "q5_0"
    q4_1 = "q4_1"
    q4_0 = "q4_0"


@dataclass(kw_only=True)
class ExportStage(Stage):
    """Settings of stage=export; conf/stage/export.yaml explains each."""

    run: str
    format: ExportFormat
    weights: Weights
    quantization: Quantization
    prompts: int
    max_prompt_length: int
    max_response_length: int

    reads: ClassVar[tuple[str, ...]] = ("prompts",)

    def inputs(self) -> dict[str, Input]:
        """Return the run to export."""
        return {"run": Input(self.run, PUBLISHED)}

    def __post_init__(self) -> None:
        require_ranges("stage.", self)
        if self.format is ExportFormat.onnx:
            raise ConfigError(
                "stage.format=onnx is not written here: set stage.format=merged and convert its folder with "
                "optimum-cli export onnx"
            )
        if self.weights is Weights.adapter and self.format is not ExportFormat.gguf:
            raise ConfigError(
                f"stage.weights=adapter is written as stage.format=gguf, not as {self.format.value}: set one of them"
            )
