"""The clipped losses, per token; the trainer takes their mean over the tokens of a whole minibatch."""

from typing import NamedTuple

import torch
from torch import Tensor


class PolicyLoss(NamedTuple):
    """All (B, T): the loss, the ratio π/π_old, and whether the clipped branch was the larger loss."""

    loss: Tensor
    ratio: Tensor
    clipped: Tensor


class ValueLoss(NamedTuple):
    """Both (B, T): the loss, and whether the clipped branch was the larger one."""

    loss: Tensor
    clipped: Tensor


def clipped_policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: float) -> PolicyLoss:
    """-min(ρₜ Aₜ, clip(ρₜ, 1-ε, 1+ε) Aₜ) with ρₜ = π(aₜ|sₜ) / π_old(aₜ|sₜ).

    Schulman et al. 2017, https://arxiv.org/abs/1707.06347, eq. 7. All (B, T).
    """
    ratio = (logprobs - old_logprobs).exp()
    plain = -advantages * ratio
    bounded = -advantages * ratio.clamp(1 - clip, 1 + clip)
    return PolicyLoss(torch.maximum(plain, bounded), ratio, bounded > plain)


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> ValueLoss:
    """½ max((Vₜ - Gₜ)², (clip(Vₜ, V_old - ε, V_old + ε) - Gₜ)²).

    Value clipping is of OpenAI's baselines (Dhariwal et al. 2017), not of the PPO paper. All (B, T).
    """
    plain = (values - returns) ** 2
    near = old_values + (values - old_values).clamp(-clip, clip)
    bounded = (near - returns) ** 2
    return ValueLoss(0.5 * torch.maximum(plain, bounded), bounded > plain)
