"""The token ledger: log-probabilities, value and advantage of each token of a few responses of an update."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf.config import PPOStage, Ratio
from rlhf.hardware.precision import autocast
from rlhf.modeling.seeding import permutation
from rlhf.ppo.losses import clipped_policy_loss, over_response
from rlhf.ppo.rollout import Rollout, evaluate

if TYPE_CHECKING:
    from rlhf.ppo.trainer import PPOTrainer

Entry = dict[str, Any]


def followed(chosen: Sequence[int], prompts: int, seed: int, count: int) -> list[int]:
    """Return the places in a batch of the ``count`` prompts that come first in the first pass over all prompts.

    So the same prompts are followed in every pass, without a state to resume.
    """
    rank = {int(index): place for place, index in enumerate(permutation(prompts, seed, "prompts", 0))}
    return sorted(range(len(chosen)), key=lambda place: rank[chosen[place]])[:count]


def entries(trainer: "PPOTrainer", chosen: Sequence[int], rollout: Rollout, advantages: Tensor) -> list[Entry]:
    """Return the entry of each followed response, after the update; ``advantages`` (B, T) are NaN off the loss.

    It costs a forward pass of the policy and the reference over these responses.
    """
    stage = trainer.stage
    assert stage.ledger is not None
    places = followed(chosen, len(trainer.prompts), trainer.seed, stage.ledger)
    index = torch.tensor([place * stage.samples + k for place in places for k in range(stage.samples)])
    index = index.to(rollout.mask.device)
    part, models = rollout.rows(index), (trainer.policy, trainer.reference, None)
    with autocast(trainer.accelerator.device, trainer.learner.autocast):
        shared = stage.samples if trainer.shared else 1
        now = trainer.learner.in_parts(
            lambda *bounds: evaluate(part, *models, stage.temperature, *bounds, shared=shared), len(index)
        )
    clipped = is_clipped(stage, now.logprobs, part, advantages[index])
    return [entry(part.rows(row), now.logprobs[row], advantages[index][row], clipped[row], stage, trainer.tokenizer)
            for row in torch.arange(len(index), device=index.device).split(1)]  # fmt: skip


def is_clipped(stage: PPOStage, logprobs: Tensor, part: Rollout, advantages: Tensor) -> Tensor:
    """Return whether a token's ratio has passed the clip range, so that it has no gradient any more; (B, T)."""
    ratios = (logprobs, part.logprobs)
    if stage.ratio is not Ratio.token:
        ratios = tuple(over_response(x, part.mask, stage.ratio is Ratio.response_mean) for x in ratios)
    return clipped_policy_loss(*ratios, advantages, stage.clip_low, stage.clip_high, stage.dual_clip).clipped


def entry(
    row: Rollout, logprobs: Tensor, advantages: Tensor, clipped: Tensor, stage: PPOStage, tokenizer: Any
) -> Entry:
    """Return the entry of one response, all tensors (1, T), as JSON values: a list per quantity, an item per token."""
    kept = row.mask[0]
    ids = row.response_ids[0][kept].tolist()
    found: Entry = {
        "prompt": tokenizer.decode(row.prompt_ids[0][row.prompt_mask[0]].tolist()),
        "score": plain(row.scores)[0],
        "tokens": texts(tokenizer, ids),
        "old": plain(row.logprobs[0][kept]),
        "new": plain(logprobs[0][kept]),
        "reference": plain(row.ref_logprobs[0][kept]),
        "advantage": plain(advantages[0][kept]),
        "clipped": clipped[0][kept].int().tolist(),
    }
    return found | {"value": plain(row.values[0][kept])} if stage.has_critic else found


def texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return the text that each token adds to the text before it."""
    # The end of a text may be the first bytes of a character, which the next token completes.
    whole = [tokenizer.decode(ids[:end]).rstrip("\N{REPLACEMENT CHARACTER}") for end in range(len(ids) + 1)]
    return [after.removeprefix(before) for before, after in pairwise(whole)]


def plain(x: Tensor) -> list[float | None]:
    """Return the numbers of ``x`` (N,) to four digits, None for those that are not finite."""
    return [float(f"{value:.4g}") if math.isfinite(value) else None for value in x.tolist()]
