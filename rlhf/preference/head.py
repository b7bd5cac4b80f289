"""Log-probabilities of given tokens from hidden states, without the logits of a whole batch at once.

TRL's fused head does the same on a GPU; on a CPU its tiles of half a gigabyte pass through memory about ten times.
Here a tile of rlhf/modeling/logprobs.py fits in the cache, and as many logits as fit in ``KEPT`` are kept for the
backward pass, so that the projection is not computed twice.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from rlhf.modeling.logprobs import tiles, token_logprobs_and_entropies

TILE = 2**23  # logits per projection without a gradient, 32 MiB: smaller ones read the weights too often
KEPT = 2**27  # the most logits kept for the backward pass, 512 MiB; beyond, they are computed again
FIELDS = ("log_probs", "entropy", "mean_logits", "is_top1")


@dataclass
class Scored(ModelOutput):
    """Outputs of a forward pass with ``fused_lm_head=True`` for TRL's trainers; each (B, T - 1), 0 off the mask.

    ``loss`` is the mean negative log-probability of the labels, ``entropy`` that of the distribution in nats,
    ``mean_logits`` the mean over the vocabulary, ``log_sum_sq_probs`` log Σ p², ``is_top1`` whether the label is the
    likeliest token. Only ``loss`` and ``log_probs`` have a gradient.
    """

    loss: Tensor | None = None
    log_probs: Tensor | None = None
    entropy: Tensor | None = None
    log_sum_sq_probs: Tensor | None = None
    mean_logits: Tensor | None = None
    is_top1: Tensor | None = None
    label_mask: Tensor | None = None
    aux_loss: Tensor | None = None


def score(head: torch.nn.Linear, hidden: Tensor, targets: Tensor, fields: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the ``fields`` of ``Scored`` of targets (M,) from hidden states (M, H), each (M,).

    The logits of a head that learns are kept for the backward pass, up to ``KEPT``; others are computed again.
    """
    learns = torch.is_grad_enabled()
    rows = max((KEPT if learns and head.weight.requires_grad else TILE) // head.out_features, 1)
    parts = list(zip(hidden.split(rows), targets.split(rows), strict=True))
    if learns and len(parts) > 1:
        # The gradient of the weight is as large as the weight, so it is added up as rarely as possible.
        again = partial(checkpoint, _score, head, fields, use_reentrant=False, preserve_rng_state=False)
        found = [again(*part) for part in parts]
    else:
        found = [_score(head, fields, *part) for part in parts]
    return {name: torch.cat([one[name] for one in found]) for name in fields}


def _score(head: torch.nn.Linear, fields: tuple[str, ...], hidden: Tensor, targets: Tensor) -> dict[str, Tensor]:
    logits = head(hidden)
    found = {}
    with torch.no_grad():
        if "mean_logits" in fields:
            found["mean_logits"] = torch.mv(hidden, head.weight.mean(0))
            if head.bias is not None:
                found["mean_logits"] += head.bias.mean()
        if "is_top1" in fields:  # the first of equals is the likeliest
            top = logits.gather(-1, targets[:, None])[:, 0] == logits.amax(-1)
            top[top.clone()] = logits[top].argmax(-1) == targets[top]
            found["is_top1"] = top
        if "log_sum_sq_probs" in fields:
            found["log_sum_sq_probs"] = torch.cat([
                torch.logsumexp(2 * logits[part], -1) - 2 * torch.logsumexp(logits[part], -1) for part in tiles(logits)
            ])  # fmt: skip
    found["log_probs"], entropy = token_logprobs_and_entropies(logits, targets, 1.0)
    return found | {"entropy": entropy.detach()}


def scattered(values: dict[str, Tensor], mask: Tensor) -> Scored:
    """Return ``values``, each (M,) or (1, M), at the M positions of ``mask``."""
    loss = -values["log_probs"].sum() / mask.sum().clamp(min=1)
    places = {name: value.new_zeros(mask.shape).masked_scatter(mask, value) for name, value in values.items()}
    return Scored(loss=loss, label_mask=mask, **places)
