"""The settings of stage=plan: the planned stages, the machine, and the assumptions."""

from dataclasses import dataclass
from typing import Any

from rlhf.config.parts import Strategy
from rlhf.config.ranges import require_ranges
from rlhf.config.rules import require
from rlhf.config.stage import Stage
from rlhf.errors import ConfigError

THIS = "this"
PLANNED = ("base", "sft", "reward", "dpo", "kto", "ppo", "online_dpo", "raft")
KINDS = {
    "base": "text", "sft": "demonstrations", "reward": "preferences", "dpo": "preferences", "kto": "thumbs",
} | dict.fromkeys(("ppo", "online_dpo", "raft"), "prompts")  # fmt: skip
NUMBERS = ("memory_gib", "tflops", "bandwidth")


@dataclass(kw_only=True)
class PlanStage(Stage):
    """Settings of stage=plan; conf/stage/plan.yaml explains each."""

    stages: list[str] | None
    overrides: Any
    device: str
    memory_gib: float | None
    tflops: float | None
    bandwidth: float | None
    gpus: int | None
    strategy: Strategy | None
    headroom: float
    mfu: float
    mbu: float
    tokens_per_second: float | None
    probe: bool
    probe_seconds: float
    devices: dict[str, Any]
    shapes: dict[str, Any]
    rows: dict[str, Any]

    @property
    def here(self) -> bool:
        """Return whether the plan is for the machine that it is computed on."""
        return self.device == THIS and self.memory_gib is None and self.tflops is None

    def machine(self) -> dict[str, float | None]:
        """Return memory (GiB), speed (TFLOPS) and bandwidth (GB/s) of one device, as set or from ``devices``."""
        known = {} if self.device == THIS else self.devices[self.device]
        return {name: known.get(name) if getattr(self, name) is None else getattr(self, name) for name in NUMBERS}

    def __post_init__(self) -> None:
        mapping = self.overrides is None or isinstance(self.overrides, dict)
        require(mapping, "stage.overrides", self.overrides, "map stages to lists of settings")
        for name, given in (self.overrides or {}).items():
            require(isinstance(given, list), f"stage.overrides.{name}", given, "be a list of settings")
        require(self.stages != [], "stage.stages", self.stages, "name a stage")
        for key, names in {"stages": self.stages or [], "overrides": self.overrides or {}}.items():
            for name in names:
                require(name in PLANNED, f"stage.{key}", name, f"name one of {', '.join(PLANNED)}")
        known = (THIS, *self.devices)
        require(self.device in known, "stage.device", self.device, f"be one of {', '.join(known)}")
        require_ranges("stage.", self)
        if not self.here and None in self.machine().values():
            missing = next(name for name, value in self.machine().items() if value is None)
            raise ConfigError(
                f"stage.{missing} is null, and unknown for stage.device={self.device}: set it to a number"
            )
        if self.gpus is not None and self.gpus > 1 and self.strategy is Strategy.none:
            raise ConfigError(
                f"stage.gpus={self.gpus} cannot divide the work under stage.strategy=none: set stage.strategy=ddp"
            )
