"""Estimators of the advantage of every response token, from rewards per token; docs/ppo.md compares them.

B prompts with K responses each, in consecutive rows; T response tokens. Rewards hold the score at the last token of a
response and, if ``stage.kl_in=reward``, the KL penalty at every token. R is their sum over a response.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def estimate(
    kind: str, rewards: Tensor, values: Tensor, mask: Tensor, samples: int, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return the advantages of the estimator ``kind`` and the returns, both (B · K, T), 0 off the mask.

    With ``reverse_kl``, rewards are log π_T(aₜ|sₜ) - log π(aₜ|sₜ) of a teacher T, and Aₜ = rₜ: the update descends
    KL(π ‖ π_T) of the next token at the states that the policy visits, and ignores the effect on later ones
    (on-policy distillation; Lu et al. 2025, https://thinkingmachines.ai/blog/on-policy-distillation/; Agarwal et al.
    2023, https://arxiv.org/abs/2306.13649; Gu et al. 2023, https://arxiv.org/abs/2306.08543).
    """
    if kind == "gae":
        return gae(rewards, values, mask, gamma, gae_lambda)
    if kind == "reverse_kl":
        return rewards, rewards
    returns = rewards_to_go(rewards, mask, gamma)
    if kind in COMPARED:
        whole = COMPARED[kind](returns[:, 0], samples)[:, None].expand_as(returns)
        return torch.where(mask, whole, torch.zeros_like(whole)), returns
    return returns, returns


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Return the advantages and the returns, which are the critic's targets.

        δₜ = rₜ + γ Vₜ₊₁ - Vₜ,   Aₜ = δₜ + γλ Aₜ₊₁,   Gₜ = Aₜ + Vₜ

    Schulman et al. 2016, https://arxiv.org/abs/1506.02438, eq. 16. Vₜ is the value of the state before token t; the
    episode ends with the last token, after which V is 0. All (B, T) -> (advantages, returns), both 0 off the mask.
    """
    values = torch.where(mask, values, torch.zeros_like(values))
    advantages = torch.zeros_like(rewards)
    next_advantage = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(mask[:, t], delta + gamma * gae_lambda * next_advantage, torch.zeros_like(delta))
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages, torch.where(mask, advantages + values, torch.zeros_like(values))


def rewards_to_go(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Return Gₜ = Σ_{s ≥ t} γ^{s-t} r_s, (B, T) -> (B, T), 0 off the mask: REINFORCE without a baseline.

    Williams 1992, https://doi.org/10.1007/BF00992696; with the advantages of a whole batch normalized
    (``stage.whiten_advantages``) it is REINFORCE++ (Hu et al. 2025, https://arxiv.org/abs/2501.03262).
    """
    return gae(rewards, torch.zeros_like(rewards), mask, gamma, 1.0)[1]


def leave_one_out(sums: Tensor, samples: int) -> Tensor:
    """Return R_i minus the mean of the other responses to the prompt, (B · K,) -> (B · K,): unbiased.

    RLOO: Kool et al. 2019; Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740, eq. 7.
    """
    return group_centered(sums, samples) * samples / (samples - 1)


def group_centered(sums: Tensor, samples: int) -> Tensor:
    """Return R_i - mean, (B · K,) -> (B · K,): (K - 1) / K times RLOO's.

    Dr. GRPO: Liu et al. 2025, https://arxiv.org/abs/2503.20783, section 3.2.
    """
    return sums - group_mean(sums, samples)


def group_standardized(sums: Tensor, samples: int) -> Tensor:
    """Return (R_i - mean) / (std + 1e-4) with the unbiased deviation of the group, (B · K,) -> (B · K,).

    GRPO: Shao et al. 2024, https://arxiv.org/abs/2402.03300, section 4.1; TRL's 1e-4. The division weighs prompts by
    the inverse of their deviation, which changes the optimum.
    """
    spread = sums.view(-1, samples).std(1).repeat_interleave(samples)
    return group_centered(sums, samples) / (spread + 1e-4)


def group_mean(sums: Tensor, samples: int) -> Tensor:
    """Return the mean of each group at each of its rows, (B · K,) -> (B · K,)."""
    return sums.view(-1, samples).mean(1).repeat_interleave(samples)


def equal_groups(scores: Tensor, samples: int) -> Tensor:
    """Return which groups have the same score for all responses, (B · K,) -> (B,)."""
    groups = scores.view(-1, samples)
    return (groups == groups[:, :1]).all(1)


# Estimators that compare the responses to a prompt: sums R (B · K,) -> advantages (B · K,).
COMPARED: dict[str, Callable[[Tensor, int], Tensor]] = {
    "rloo": leave_one_out,
    "grpo": group_standardized,
    "dr_grpo": group_centered,
    "reinforce_pp_baseline": group_centered,
}
