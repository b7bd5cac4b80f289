"""The clipped losses per token; the learner averages them over the tokens or responses of a minibatch."""

from typing import NamedTuple

import torch
from torch import Tensor


class PolicyLoss(NamedTuple):
    """The loss, the ratio π/π_old, and whether the loss is clipped and so has no gradient; all (B, T)."""

    loss: Tensor
    ratio: Tensor
    clipped: Tensor


class ValueLoss(NamedTuple):
    """The loss, and whether the clipped branch is the larger one; both (B, T)."""

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
    """Return -min(ρₜ Aₜ, clip(ρₜ, 1-ε_low, 1+ε_high) Aₜ) with ρₜ = π(aₜ|sₜ) / π_old(aₜ|sₜ), at most -c Aₜ if Aₜ < 0.

    Schulman et al. 2017, https://arxiv.org/abs/1707.06347, eq. 7, with a single ε; separate ones are clip-higher of
    Yu et al. 2025, https://arxiv.org/abs/2503.14476, section 3.1. The bound c = ``dual_clip`` (Ye et al. 2020,
    https://arxiv.org/abs/1912.09729) limits the loss of tokens that became likely despite a negative advantage, which
    otherwise grows with the ratio. All (B, T).
    """
    ratio = (logprobs - old_logprobs).exp()
    plain = -advantages * ratio
    bounded = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    loss, clipped = torch.maximum(plain, bounded), bounded > plain
    if dual_clip is not None:
        ceiling = torch.where(advantages < 0, -dual_clip * advantages, torch.inf)
        loss, clipped = torch.minimum(loss, ceiling), clipped | (loss > ceiling)
    return PolicyLoss(loss, ratio, clipped)


def over_response(logprobs: Tensor, mask: Tensor, mean: bool = False) -> Tensor:
    """Return at every token the sum of its response's log-probabilities, or their mean; (B, T), 0 off the mask.

    Ratios of sums are those of whole responses, as in RLOO (Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740);
    ratios of means are those of GSPO (Zheng et al. 2025, https://arxiv.org/abs/2507.18071, eq. 7).
    """
    whole = torch.where(mask, logprobs, torch.zeros_like(logprobs)).sum(-1, keepdim=True)
    whole = whole / mask.sum(-1, keepdim=True).clamp(min=1) if mean else whole
    return torch.where(mask, whole, torch.zeros_like(logprobs))


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> ValueLoss:
    """Return ½ max((Vₜ - Gₜ)², (clip(Vₜ, V_old - ε, V_old + ε) - Gₜ)²); ½ (Vₜ - Gₜ)² if ``clip`` is None.

    Value clipping comes from OpenAI's baselines (Dhariwal et al. 2017), not from the PPO paper. All (B, T).
    """
    plain = (values - returns) ** 2
    if clip is None:
        return ValueLoss(0.5 * plain, torch.zeros_like(plain, dtype=torch.bool))
    near = old_values + (values - old_values).clamp(-clip, clip)
    bounded = (near - returns) ** 2
    return ValueLoss(0.5 * torch.maximum(plain, bounded), bounded > plain)


def truncated_importance(old_logprobs: Tensor, sampler_logprobs: Tensor, cap: float) -> Tensor:
    """Return min(π_old(aₜ|sₜ) / π_sampler(aₜ|sₜ), c), the weight of a token that a separate engine sampled.

    Engine and learner have the same parameters, but differ in kernels and number formats. Untruncated, the weights
    correct the difference exactly for each step; the bound c trades a little bias for lower variance. Yao et al. 2025,
    https://fengyao.notion.site/off-policy-rl; truncation: Ionides 2008, doi:10.1198/106186008X320456. All (B, T).
    """
    return (old_logprobs - sampler_logprobs).exp().clamp(max=cap)
