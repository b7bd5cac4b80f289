"""Generalized advantage estimation over responses that end."""

import torch
from torch import Tensor


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
