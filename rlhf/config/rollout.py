"""The settings of the engine that samples the responses of a PPO run."""

from dataclasses import dataclass
from enum import Enum

from rlhf.config.ranges import require_ranges
from rlhf.errors import ConfigError


class Engine(Enum):
    """Sampler: the policy itself in transformers, or a copy of it in vLLM."""

    transformers = "transformers"
    vllm = "vllm"


class OldLogprobs(Enum):
    """Source of log π_old: recorded while decoding, or from a separate forward pass."""

    decoding = "decoding"
    forward = "forward"


class VLLMMode(Enum):
    """vLLM in this process on the same GPU, or a server started by ``vllm serve``."""

    colocate = "colocate"
    server = "server"


@dataclass(kw_only=True)
class RolloutSettings:
    """Settings of the sampling engine; conf/stage/ppo.yaml explains each."""

    engine: Engine
    rows: int | None
    logprobs: OldLogprobs
    vllm_mode: VLLMMode
    vllm_url: str | None
    vllm_memory: float

    def __post_init__(self) -> None:
        require_ranges("stage.rollout.", self)
        if self.engine is Engine.vllm and self.vllm_mode is VLLMMode.server and self.vllm_url is None:
            raise ConfigError(
                "stage.rollout.vllm_mode=server needs the server's address: set stage.rollout.vllm_url, such as "
                "http://localhost:8000, or stage.rollout.vllm_mode=colocate"
            )
