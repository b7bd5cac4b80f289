"""What draws the responses of a PPO run."""

from dataclasses import dataclass
from enum import Enum

from rlhf.config.ranges import require_ranges
from rlhf.errors import ConfigError


class Engine(Enum):
    """The policy itself, by transformers, or a copy of it in vLLM."""

    transformers = "transformers"
    vllm = "vllm"


class OldLogprobs(Enum):
    """Where log π_old is from: noted while decoding, or a forward pass of its own."""

    decoding = "decoding"
    forward = "forward"


class VLLMMode(Enum):
    """vLLM in this process, on the same GPU, or a server that ``vllm serve`` started."""

    colocate = "colocate"
    server = "server"


@dataclass(kw_only=True)
class RolloutSettings:
    """Each is explained in conf/stage/ppo.yaml."""

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
                "stage.rollout.vllm_mode=server needs the server's address: give stage.rollout.vllm_url, such as "
                "http://localhost:8000, or vllm_mode=colocate"
            )
