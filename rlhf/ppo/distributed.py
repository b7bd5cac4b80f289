"""Statistics over the processes that share a batch."""

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor

from rlhf.modeling.logprobs import masked_sum, standardize
from rlhf.ppo.rollout import Rollout


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


def everyones(accelerator: Accelerator, *tensors: Tensor) -> list[Tensor]:
    """Rows of all ranks, those of the first one first; (B, ...) each, on each rank -> (ranks · B, ...)."""
    return list(tensors) if accelerator.num_processes == 1 else [accelerator.gather(one) for one in tensors]


def padded(x: Tensor, accelerator: Accelerator, left: bool = False) -> Tensor:
    """``x`` (B, T), zeros behind it, or before it, up to the width that it has on the rank where it is widest."""
    # accelerate makes numbers of booleans, but only where it pads: ranks would send each other different types.
    numbers = x.long() if x.dtype is torch.bool else x
    return accelerator.pad_across_processes(numbers, dim=1, pad_first=left).to(x.dtype)


def everyones_rows(rollout: Rollout, accelerator: Accelerator) -> Rollout:
    """The rows of all ranks, in the order of the batch that they are slices of."""
    if accelerator.num_processes == 1:
        return rollout
    left = ("prompt_ids", "prompt_mask")
    wide = (
        field if field.dim() == 1 else padded(field, accelerator, left=name in left)
        for name, field in rollout._asdict().items()
    )
    return Rollout(*everyones(accelerator, *wide))


def average_gradients(parameters: Iterable[Tensor], accelerator: Accelerator) -> None:
    """Gradients that each rank has summed up by itself, in place of them their mean."""
    if accelerator.num_processes > 1:
        for one in parameters:
            if one.grad is not None:
                one.grad = accelerator.reduce(one.grad, reduction="mean")


def agreed(metrics: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    """The first rank's numbers, on all ranks: what is decided by them is then decided alike, to the last bit."""
    if accelerator.num_processes == 1:
        return metrics
    values = torch.tensor(list(metrics.values()), dtype=torch.float64, device=accelerator.device)
    return dict(zip(metrics, broadcast(values, from_process=0).tolist(), strict=True))
