"""How bytes are divided over GPUs.

Rajbhandari et al. 2020 (ZeRO), https://arxiv.org/abs/1910.02054, figure 1: of Ψ trained parameters in half precision a
GPU of N holds 2Ψ weights, 2Ψ gradients and KΨ of the optimizer, K = 12 (weights and two moments in float32); of them
the optimizer is divided by stage 1, gradients too by stage 2, and weights too by stage 3.
"""

from typing import NamedTuple

from rlhf.config import Strategy
from rlhf.hardware.memory import FLOAT32

SHARDED = (Strategy.fsdp, Strategy.deepspeed_zero3)
DEEPSPEED = (Strategy.deepspeed_zero2, Strategy.deepspeed_zero3)
MOMENTS = 2  # of Adam


class Ranks(NamedTuple):
    """``count`` processes with a device each."""

    strategy: Strategy
    count: int

    def weights(self, parameters: int, width: float, trained: bool = True) -> int:
        """Of a model on each device; FSDP keeps what it trains in float32, and casts what it gathers."""
        held = FLOAT32 if trained and self.strategy is Strategy.fsdp else width
        return self._share(parameters * held, self.strategy in SHARDED)

    def gradients(self, trained: int, width: int) -> int:
        """DDP keeps them a second time, in the buckets that it averages (torch's gradient_as_bucket_view is off)."""
        if self.strategy is Strategy.ddp and self.count > 1:
            return 2 * trained * width
        held = FLOAT32 if self.strategy is Strategy.fsdp else width
        return self._share(trained * held, self.strategy in (*SHARDED, Strategy.deepspeed_zero2))

    def optimizer(self, trained: int, width: int) -> int:
        """Adam's moments, in the type of the weights; in float32 under an engine that divides.

        DeepSpeed adds the weights in float32 where they are narrower.
        """
        if self.strategy in (Strategy.none, Strategy.ddp):
            return MOMENTS * trained * width
        copies = MOMENTS + (self.strategy in DEEPSPEED and width < FLOAT32)
        return self._share(copies * trained * FLOAT32, True)

    def gathered(self, layer: int, outside: int, width: int) -> int:
        """While a layer works its weights are whole, and those of the next are on their way; so are the embeddings."""
        return (2 * layer + outside) * width if self.strategy in SHARDED and self.count > 1 else 0

    def _share(self, size: float, divided: bool) -> int:
        return int(-(-size // self.count)) if divided else int(size)
