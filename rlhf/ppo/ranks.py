"""Statistics over the processes that share a batch."""

from accelerate import Accelerator
from torch import Tensor

from rlhf.ppo.tensors import masked_sum, standardize


def total(x: Tensor, accelerator: Accelerator) -> Tensor:
    """Sum over the ranks; the shape of ``x``."""
    return accelerator.reduce(x, reduction="sum")


def whiten(x: Tensor, mask: Tensor, accelerator: Accelerator) -> Tensor:
    """``x`` (B, T) with mean 0 and variance 1 over the unmasked tokens of all ranks.

    Each rank by itself would weigh its own rows by its own spread.
    """
    count = total(mask.sum(), accelerator)
    mean = total(masked_sum(x, mask), accelerator) / count
    var = total(masked_sum((x - mean) ** 2, mask), accelerator) / (count - 1).clamp(min=1)
    return standardize(x, mask, mean, var)
