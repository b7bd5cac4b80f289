"""Metrics of a rollout about the policy, the critic and the reward; docs/ppo.md explains each of them."""

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from rlhf.ppo.distributed import moments, total
from rlhf.ppo.diversity import distinct, repetition
from rlhf.ppo.kl import k1
from rlhf.ppo.rollout import Rollout

Metrics = dict[str, float]


def report(
    rollout: Rollout,
    scores: Tensor,
    penalties: Tensor,
    returns: Tensor | None,
    accelerator: Accelerator,
    samples: int = 1,
) -> Metrics:
    """Return the metrics of a rollout: means over the responses, or over the tokens, of all ranks.

    scores (B,): as the advantages use them; penalties (B, T): the KL penalties; returns (B, T): the critic's targets,
    None without a critic. Only the first of ``samples`` responses to a prompt, in consecutive rows, counts in
    ``val/distinct``: the right answer to one prompt may always be the same.
    """
    mask, lengths = rollout.mask, rollout.mask.sum(-1).float()
    kl = torch.where(mask, k1(rollout.logprobs, rollout.ref_logprobs), 0.0).sum(-1)
    non_score = penalties.sum(-1)
    read = rollout.prompt_mask.sum() + mask.sum()
    responses = [ids[kept].tolist() for ids, kept in zip(rollout.response_ids, mask, strict=True)]
    found = {
        "objective/scores": rollout.scores.mean(),
        "objective/rlhf_reward": (scores + non_score).mean(),
        "objective/kl": kl.mean(),
        "objective/non_score_reward": non_score.mean(),
        "objective/entropy": torch.where(mask, -rollout.logprobs, 0.0).sum(-1).mean(),
        "val/ended": rollout.ended.float().mean(),
        "val/response_length": lengths.mean(),
        "val/repetition": lengths.new_tensor(repetition(responses)),
        "val/distinct": lengths.new_tensor(distinct(gather_object(responses[::samples]))),
    }
    _, spread = moments(rollout.scores, torch.ones_like(rollout.scores, dtype=torch.bool), accelerator)
    sampled, processed = total(mask.sum(), accelerator), total(read, accelerator)
    gap, _ = moments((rollout.logprobs - rollout.sampler_logprobs).abs(), mask, accelerator)
    reduced = accelerator.reduce(found, reduction="mean") | {
        "objective/scores_std": spread.sqrt(),
        "val/sampler_gap": gap,
        "sampled_tokens": sampled,
        "tokens": processed,
    }
    if returns is not None:
        _, error = moments(returns - rollout.values, mask, accelerator)
        _, variance = moments(returns, mask, accelerator)
        reduced["val/explained_variance"] = 1 - error / variance.clamp(min=1e-8)
    return {key: float(value) for key, value in reduced.items()}
