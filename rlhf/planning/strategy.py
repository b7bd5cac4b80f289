"""Division of model state over GPUs.

Rajbhandari et al. 2020 (ZeRO), https://arxiv.org/abs/1910.02054, figure 1: Ψ trained parameters in half precision take
2Ψ bytes of weights, 2Ψ of gradients and KΨ of optimizer state, K = 12 (weights and two moments in float32). Stage 1
divides the optimizer state over the GPUs, stage 2 also the gradients, stage 3 also the weights.
"""

from typing import NamedTuple

from rlhf.config import Strategy
from rlhf.hardware.memory import FLOAT32

SHARDED = (Strategy.fsdp, Strategy.deepspeed_zero3)
DEEPSPEED = (Strategy.deepspeed_zero2, Strategy.deepspeed_zero3)
MOMENTS = 2  # Adam's


class Ranks(NamedTuple):
    """``count`` processes with one device each."""

    strategy: Strategy
    count: int

    def weights(self, parameters: int, width: float, trained: bool = True) -> int:
        """Return the bytes of weights per device; FSDP keeps trained weights in float32 and casts gathered ones."""
        held = FLOAT32 if trained and self.strategy is Strategy.fsdp else width
        return self._share(parameters * held, self.strategy in SHARDED)

    def gradients(self, trained: int, width: int) -> int:
        """Return the bytes of gradients per device.

        DDP has a second copy in its buckets, since torch's gradient_as_bucket_view is off.
        """
        if self.strategy is Strategy.ddp and self.count > 1:
            return 2 * trained * width
        held = FLOAT32 if self.strategy is Strategy.fsdp else width
        return self._share(trained * held, self.strategy in (*SHARDED, Strategy.deepspeed_zero2))

    def optimizer(self, trained: int, width: int) -> int:
        """Return the bytes of Adam's moments per device, in the dtype of the weights, or in float32 if divided.

        DeepSpeed adds a float32 copy of narrower weights.
        """
        if self.strategy in (Strategy.none, Strategy.ddp):
            return MOMENTS * trained * width
        copies = MOMENTS + (self.strategy in DEEPSPEED and width < FLOAT32)
        return self._share(copies * trained * FLOAT32, True)

    def gathered(self, layer: int, outside: int, width: int) -> int:
        """Return the bytes of gathered weights: of a layer, the prefetched next layer and the embeddings."""
        return (2 * layer + outside) * width if self.strategy in SHARDED and self.count > 1 else 0

    def _share(self, size: float, divided: bool) -> int:
        return int(-(-size // self.count)) if divided else int(size)
