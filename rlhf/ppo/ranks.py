"""Statistics over the processes that share a batch."""

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor

from rlhf.ppo.tensors import masked_sum, standardize


def total(x: Tensor, accelerator: Accelerator) -> Tensor:
    """Sum over the ranks; the shape of ``x``."""
    return accelerator.reduce(x, reduction="sum")


def largest(x: Tensor, accelerator: Accelerator) -> float:
    """The largest entry of ``x`` on any rank, so that a check fails on all of them or on none."""
    return accelerator.gather(x.max().reshape(1)).max().item()


def moments(x: Tensor, mask: Tensor, accelerator: Accelerator) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of the unmasked entries of all ranks; any shape -> two scalars."""
    count = total(mask.sum(), accelerator)
    mean = total(masked_sum(x, mask), accelerator) / count
    return mean, total(masked_sum((x - mean) ** 2, mask), accelerator) / (count - 1).clamp(min=1)


def whiten(x: Tensor, mask: Tensor, accelerator: Accelerator, keep_mean: bool = False) -> Tensor:
    """``x`` (B, T) with mean 0, unless it keeps its own, and variance 1 over the unmasked tokens of all ranks.

    Each rank by itself would weigh its own rows by its own spread.
    """
    mean, var = moments(x, mask, accelerator)
    white = standardize(x, mask, mean, var)
    return torch.where(mask, white + mean, white) if keep_mean else white


def anywhere(holds: bool, accelerator: Accelerator) -> bool:
    """Whether it holds on any rank: an error that one alone raised would leave the others waiting for it for ever."""
    return bool(total(torch.tensor(float(holds), device=accelerator.device), accelerator))


def agreed(metrics: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    """The first rank's numbers, on all ranks: what is decided by them is then decided alike, to the last bit."""
    if accelerator.num_processes == 1:
        return metrics
    values = torch.tensor(list(metrics.values()), dtype=torch.float64, device=accelerator.device)
    return dict(zip(metrics, broadcast(values, from_process=0).tolist(), strict=True))
