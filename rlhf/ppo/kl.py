"""The KL penalty: estimators of KL(π ‖ π_ref), the penalty in the reward or in the loss, an adaptive coefficient."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf.modeling.logprobs import last_index

Estimator = Callable[[Tensor, Tensor], Tensor]


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Return log π(aₜ) - log π_ref(aₜ): unbiased under a ~ π, high variance, negative about half of the time.

    Schulman 2020, http://joschu.net/blog/kl-approx.html. Any shape.
    """
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Return ½ (log π - log π_ref)²: biased, low variance, never negative. Schulman 2020. Any shape."""
    return 0.5 * (logprobs - ref_logprobs) ** 2


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Return r - 1 - log r with r = π_ref / π: unbiased, low variance, never negative. Schulman 2020. Any shape."""
    log_ratio = ref_logprobs - logprobs
    return log_ratio.exp() - 1 - log_ratio


ESTIMATORS: dict[str, Estimator] = {"k1": k1, "k2": k2, "k3": k3}


class ShapedRewards(NamedTuple):
    """Rewards per token, and the KL penalties in them; both (B, T), zero off the mask."""

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
    """Return the reward per token: a KL penalty at every token, plus the score at the last one.

        rₜ = -β k(aₜ|sₜ) + [t is last] · score

    Ziegler et al. 2019, https://arxiv.org/abs/1909.08593, eq. 2, per token, with k = k1. scores (B,), the others
    (B, T). With ``in_reward`` False the penalty is part of the loss (``kl_loss``), and rewards hold only the score.

    The estimator of the value is not one of the gradient. With k1 the policy gradient of the penalties is
    -β ∇KL(π ‖ π_ref). With k3 it is -β (∇KL(π ‖ π_ref) - ∇KL(π_ref ‖ π)), which cancels to first order; with k2 it is
    of second order, too: near the reference both hardly act (Liu et al. 2025, https://arxiv.org/abs/2510.01555).
    """
    penalties = torch.where(mask, -kl_coef * estimator(logprobs, ref_logprobs), torch.zeros_like(logprobs))
    rewards = penalties.clone() if in_reward else torch.zeros_like(penalties)
    rewards[torch.arange(len(scores), device=scores.device), last_index(mask)] += scores
    return ShapedRewards(rewards, penalties)


def kl_loss(
    logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor, estimator: Estimator, ratio_gradient: bool = False
) -> Tensor:
    """Return the KL penalty per token as a loss, differentiable through log π; all (B, T).

        ρₜ k(aₜ|sₜ),  ρₜ = π / π_old without its gradient

    The ratio corrects for tokens drawn from π_old. The gradient of the mean is that of KL(π ‖ π_ref) with k2, that of
    KL(π_ref ‖ π) with k3, and 0 with k1, since E_π[∇ log π] = 0 (Tang and Munos 2025,
    https://arxiv.org/abs/2506.09477; Liu et al. 2025, https://arxiv.org/abs/2510.01555). The penalty covers the KL at
    the visited states; unlike the penalty in the reward, it ignores the effect of a token on later ones.

    With ``ratio_gradient`` ρₜ is differentiated, too, and the gradient is that of KL(π ‖ π_ref) with every estimator
    (DeepSeek-AI 2025, https://arxiv.org/abs/2512.02556, section 3.1).
    """
    ratio = (logprobs - old_logprobs).exp()
    return (ratio if ratio_gradient else ratio.detach()) * estimator(logprobs, ref_logprobs)


def adapted(kl_coef: float, kl: float, target: float, gain: float) -> float:
    """Return βₜ₊₁ = βₜ (1 + K e) with e = clip((KL - target) / target, -0.2, 0.2); KL in nats per response.

    Ziegler et al. 2019, https://arxiv.org/abs/1909.08593, section 2.2.
    """
    return kl_coef * (1 + gain * min(max((kl - target) / target, -0.2), 0.2))
