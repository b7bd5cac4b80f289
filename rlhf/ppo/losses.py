"""The clipped losses, per token; the learner takes their mean over the tokens or responses of a whole minibatch."""

from typing import NamedTuple

import torch
from torch import Tensor


class PolicyLoss(NamedTuple):
    """All (B, T): the loss, the ratio π/π_old, and whether a clipped branch is the loss, which then has no gradient."""

    loss: Tensor
    ratio: Tensor
    clipped: Tensor


class ValueLoss(NamedTuple):
    """Both (B, T): the loss, and whether the clipped branch was the larger one."""

    loss: Tensor
    clipped: Tensor


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """-min(ρₜ Aₜ, clip(ρₜ, 1-ε_low, 1+ε_high) Aₜ) with ρₜ = π(aₜ|sₜ) / π_old(aₜ|sₜ), at most -c Aₜ where Aₜ < 0.

    Schulman et al. 2017, https://arxiv.org/abs/1707.06347, eq. 7, where both ε are one; two are of Yu et al. 2025
    (clip-higher), https://arxiv.org/abs/2503.14476, section 3.1. The bound c = ``dual_clip`` is of Ye et al. 2020,
    https://arxiv.org/abs/1912.09729: without it a token that has become likely against its advantage has a loss, and a
    gradient, as large as its ratio. All (B, T).
    """
    ratio = (logprobs - old_logprobs).exp()
    plain = -advantages * ratio
    bounded = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    loss, clipped = torch.maximum(plain, bounded), bounded > plain
    if dual_clip is not None:
        ceiling = torch.where(advantages < 0, -dual_clip * advantages, torch.inf)
        loss, clipped = torch.minimum(loss, ceiling), clipped | (loss > ceiling)
    return PolicyLoss(loss, ratio, clipped)


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> ValueLoss:
    """½ max((Vₜ - Gₜ)², (clip(Vₜ, V_old - ε, V_old + ε) - Gₜ)²); ½ (Vₜ - Gₜ)² with ``clip`` None.

    Value clipping is of OpenAI's baselines (Dhariwal et al. 2017), not of the PPO paper. All (B, T).
    """
    plain = (values - returns) ** 2
    if clip is None:
        return ValueLoss(0.5 * plain, torch.zeros_like(plain, dtype=torch.bool))
    near = old_values + (values - old_values).clamp(-clip, clip)
    bounded = (near - returns) ** 2
    return ValueLoss(0.5 * torch.maximum(plain, bounded), bounded > plain)


def truncated_importance(old_logprobs: Tensor, sampler_logprobs: Tensor, cap: float) -> Tensor:
    """min(π_old(aₜ|sₜ) / π_sampler(aₜ|sₜ), c): what a token counts that another engine than the learner's drew.

    The two have equal weights and still differ, by kernels and by number formats. Untruncated, the weights undo that
    exactly for each step; the bound trades a little bias for their variance. Yao et al. 2025,
    https://fengyao.notion.site/off-policy-rl; the bound as in Ionides 2008, doi:10.1198/106186008X320456. All (B, T).
    """
    return (old_logprobs - sampler_logprobs).exp().clamp(max=cap)
