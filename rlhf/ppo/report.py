"""What a batch of experience says about the policy, the critic and the reward; README.md explains each number."""

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf.ppo.kl import k1
from rlhf.ppo.rollout import Rollout
from rlhf.ppo.tensors import masked_var

Metrics = dict[str, float]


def report(rollout: Rollout, scores: Tensor, penalties: Tensor, returns: Tensor, accelerator: Accelerator) -> Metrics:
    """Means over the responses of all ranks, or over tokens where the name is one of a token.

    scores (B,): as PPO uses them; penalties (B, T): the KL's share of the rewards; returns (B, T): the critic's target.
    """
    mask, lengths = rollout.mask, rollout.mask.sum(-1).float()
    kl = torch.where(mask, k1(rollout.logprobs, rollout.ref_logprobs), 0.0).sum(-1)
    non_score = penalties.sum(-1)
    error = masked_var(returns - rollout.values, mask) / masked_var(returns, mask).clamp(min=1e-8)
    found = {
        "objective/scores": rollout.scores.mean(),
        "objective/rlhf_reward": (scores + non_score).mean(),
        "objective/kl": kl.mean(),
        "objective/scores_std": rollout.scores.std(unbiased=False),
        "objective/non_score_reward": non_score.mean(),
        "objective/entropy": torch.where(mask, -rollout.logprobs, 0.0).sum(-1).mean(),
        "val/explained_variance": 1 - error,
        "val/ended": rollout.ended.float().mean(),
        "val/response_length": lengths.mean(),
    }
    reduced = accelerator.reduce(found, reduction="mean")
    return {key: float(value) for key, value in reduced.items()}
