"""The pull towards the reference: estimators of KL(π ‖ π_ref) and the reward that contains it."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlhf.ppo.tensors import last_index


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log π(aₜ) - log π_ref(aₜ): unbiased under a ~ π, of high variance, and negative half of the time.

    Schulman 2020, http://joschu.net/blog/kl-approx.html. Any shape.
    """
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """½ (log π - log π_ref)²: biased, of low variance, never negative. Schulman 2020."""
    return 0.5 * (logprobs - ref_logprobs) ** 2


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """r - 1 - log r with r = π_ref / π: unbiased, of low variance, never negative. Schulman 2020."""
    log_ratio = ref_logprobs - logprobs
    return log_ratio.exp() - 1 - log_ratio


class ShapedRewards(NamedTuple):
    """rewards, penalties: (B, T), zero where the mask is False; their difference is the score at the last token."""

    rewards: Tensor
    penalties: Tensor


def shape_rewards(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, kl_coef: float
) -> ShapedRewards:
    """Reward of each token: a KL penalty at every one and the score at the last, where the episode ends.

        rₜ = -β (log π(aₜ|sₜ) - log π_ref(aₜ|sₜ)) + [t is last] · score

    Ziegler et al. 2019, https://arxiv.org/abs/1909.08593, eq. 2, written per token. scores (B,), the others (B, T).
    """
    penalties = torch.where(mask, -kl_coef * k1(logprobs, ref_logprobs), torch.zeros_like(logprobs))
    rewards = penalties.clone()
    rewards[torch.arange(len(scores), device=scores.device), last_index(mask)] += scores
    return ShapedRewards(rewards, penalties)
