"""The pull towards the reference: estimators of KL(π ‖ π_ref), where they enter, and a coefficient that adapts."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf.modeling.logprobs import last_index

Estimator = Callable[[Tensor, Tensor], Tensor]


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


ESTIMATORS: dict[str, Estimator] = {"k1": k1, "k2": k2, "k3": k3}


class ShapedRewards(NamedTuple):
    """Both (B, T), zero where the mask is False: what each token earns, and what it pays for leaving the reference."""

    rewards: Tensor
    penalties: Tensor


def shape_rewards(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    kl_coef: float,
    estimator: Estimator = k1,
    in_reward: bool = True,
) -> ShapedRewards:
    """Reward of each token: a KL penalty at every one and the score at the last, where the episode ends.

        rₜ = -β k(aₜ|sₜ) + [t is last] · score

    Ziegler et al. 2019, https://arxiv.org/abs/1909.08593, eq. 2, written per token, where k is k1. scores (B,), the
    others (B, T). With ``in_reward`` False the penalty is the loss's, and the rewards are the score alone.

    A value is not a gradient. With k1 the policy gradient of the penalties is -β ∇KL(π ‖ π_ref); with k3 it is that
    less -β ∇KL(π_ref ‖ π), which cancels it to first order, and with k2 it is of second order too (Liu et al. 2025,
    https://arxiv.org/abs/2510.01555): near the reference both hardly pull.
    """
    penalties = torch.where(mask, -kl_coef * estimator(logprobs, ref_logprobs), torch.zeros_like(logprobs))
    rewards = penalties.clone() if in_reward else torch.zeros_like(penalties)
    rewards[torch.arange(len(scores), device=scores.device), last_index(mask)] += scores
    return ShapedRewards(rewards, penalties)


def kl_loss(logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor, estimator: Estimator) -> Tensor:
    """The penalty as a loss of each token, differentiated through log π; all (B, T).

        ρₜ k(aₜ|sₜ),  ρₜ = π / π_old without its gradient

    The ratio makes the tokens, which π_old drew, count as π's own. The mean over them has with k2 the gradient of
    KL(π ‖ π_ref), with k3 that of KL(π_ref ‖ π), and with k1 none: E_π[∇ log π] is 0, so that nothing pulls (Tang and
    Munos 2025, https://arxiv.org/abs/2506.09477; Liu et al. 2025, https://arxiv.org/abs/2510.01555). It is the KL of
    each step at the states that were visited; unlike the penalty in the reward it does not look ahead.
    """
    return (logprobs - old_logprobs).exp().detach() * estimator(logprobs, ref_logprobs)


def adapted(kl_coef: float, kl: float, target: float, gain: float) -> float:
    """βₜ₊₁ = βₜ (1 + K e) with e = clip((KL - target) / target, -0.2, 0.2); KL in nats a response.

    Ziegler et al. 2019, https://arxiv.org/abs/1909.08593, section 2.2.
    """
    return kl_coef * (1 + gain * min(max((kl - target) / target, -0.2), 0.2))
