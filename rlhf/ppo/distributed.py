"""Statistics over the ranks that share a batch."""

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor

from rlhf.modeling.logprobs import masked_sum, standardize
from rlhf.ppo.rollout import Rollout


def total(x: Tensor, accelerator: Accelerator) -> Tensor:
    """Return the sum of ``x`` over the ranks, in the shape of ``x``."""
    return accelerator.reduce(x, reduction="sum")


def largest(x: Tensor, accelerator: Accelerator) -> float:
    """Return the largest entry of ``x`` on any rank, so that a check fails on all ranks or on none."""
    return accelerator.gather(x.max().reshape(1)).max().item()


def moments(x: Tensor, mask: Tensor, accelerator: Accelerator) -> tuple[Tensor, Tensor]:
    """Return mean and unbiased variance of the unmasked entries of all ranks; any shape -> two scalars."""
    count = total(mask.sum(), accelerator)
    mean = total(masked_sum(x, mask), accelerator) / count
    return mean, total(masked_sum((x - mean) ** 2, mask), accelerator) / (count - 1).clamp(min=1)


def whiten(x: Tensor, mask: Tensor, accelerator: Accelerator, keep_mean: bool = False) -> Tensor:
    """Return ``x`` (B, T) with variance 1, and mean 0 unless ``keep_mean``, over the unmasked tokens of all ranks.

    Statistics per rank would scale the rows of each rank differently.
    """
    mean, var = moments(x, mask, accelerator)
    white = standardize(x, mask, mean, var)
    return torch.where(mask, white + mean, white) if keep_mean else white


def anywhere(holds: bool, accelerator: Accelerator) -> bool:
    """Return whether ``holds`` is true on any rank; if only one rank raised, the others would wait forever."""
    return bool(total(torch.tensor(float(holds), device=accelerator.device), accelerator))


def everyones(accelerator: Accelerator, *tensors: Tensor) -> list[Tensor]:
    """Return the rows of all ranks, in rank order; (B, ...) each, on each rank -> (ranks · B, ...)."""
    return list(tensors) if accelerator.num_processes == 1 else [accelerator.gather(one) for one in tensors]


def padded(x: Tensor, accelerator: Accelerator, left: bool = False) -> Tensor:
    """Return ``x`` (B, T) padded with zeros, on the right or on the ``left``, to its largest width on any rank."""
    # accelerate converts booleans to integers only if it pads: ranks would send each other different types.
    numbers = x.long() if x.dtype is torch.bool else x
    return accelerator.pad_across_processes(numbers, dim=1, pad_first=left).to(x.dtype)


def everyones_rows(rollout: Rollout, accelerator: Accelerator) -> Rollout:
    """Return the rows of all ranks, in the order of the batch."""
    if accelerator.num_processes == 1:
        return rollout
    left = ("prompt_ids", "prompt_mask")
    wide = (
        field if field.dim() == 1 or not len(field) else padded(field, accelerator, left=name in left)
        for name, field in rollout._asdict().items()
    )
    return Rollout(*everyones(accelerator, *wide))


def average_gradients(parameters: Iterable[Tensor], accelerator: Accelerator) -> None:
    """Replace the gradients, which each rank has accumulated separately, by their mean over the ranks."""
    if accelerator.num_processes > 1:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = accelerator.reduce(parameter.grad, reduction="mean")


def agreed(metrics: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    """Return the first rank's numbers on all ranks, so that every rank decides the same."""
    if accelerator.num_processes == 1:
        return metrics
    values = torch.tensor(list(metrics.values()), dtype=torch.float64, device=accelerator.device)
    return dict(zip(metrics, broadcast(values, from_process=0).tolist(), strict=True))
