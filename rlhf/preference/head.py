"""Log-probabilities of given tokens from hidden states, without the logits of a whole batch at once.

TRL's fused head does the same on a GPU; on a CPU its tiles of half a gigabyte pass through memory about ten times.
Here a tile fits in the cache, one softmax yields all statistics, and small probabilities are kept for the backward
pass, so that the projection is not computed twice.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

TILE = 2**23  # logits per tile, 32 MiB: smaller tiles read the weights too often, larger ones do not fit in the cache
KEPT = 2**27  # the most probabilities kept for the backward pass, 512 MiB; beyond, they are computed again
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


class LogProbs(torch.autograd.Function):
    """log softmax(h W' + b)[y] for hidden states (M, H), weight (V, H), bias (V,) or None, and targets (M,)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, fields: tuple[str, ...]
    ) -> tuple[Tensor, ...]:
        """Return log-probabilities, entropy, log Σ p² and whether the target is the likeliest token, each (M,).

        The last three have no gradient, and are zeros if they are not in ``fields``. The first of equals is the
        likeliest.
        """
        count, size = len(hidden), len(weight)
        kept = hidden.new_empty(count, size) if ctx.needs_input_grad[1] and count * size <= KEPT else None
        step = max(1, TILE // size)
        normalizer, log_probs = hidden.new_empty(count), hidden.new_empty(count)
        entropy, squares = hidden.new_zeros(count), hidden.new_zeros(count)
        top = torch.zeros(count, dtype=torch.bool, device=hidden.device)
        logits = hidden.new_empty(min(step, count), size)
        probabilities = torch.empty_like(logits) if kept is None else kept
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            z = _project(hidden[part], weight, bias, logits[: part.stop - start])
            p = torch.softmax(z, -1, out=probabilities[: len(z)] if kept is None else probabilities[part])
            highest = z.amax(-1)
            # p is exp(z - normalizer); its largest entry, at the highest z, cannot underflow.
            normalizer[part] = highest - p.amax(-1).log()
            target = z.gather(-1, targets[part, None])[:, 0]
            log_probs[part] = target - normalizer[part]
            if "is_top1" in fields:
                first = target == highest
                first[first.clone()] = z[first].argmax(-1) == targets[part][first]
                top[part] = first
            if "entropy" in fields:
                entropy[part] = normalizer[part] - torch.mul(p, z, out=z).sum(-1)
            if "log_sum_sq_probs" in fields:
                squares[part] = torch.mul(p, p, out=z).sum(-1).log()
        ctx.save_for_backward(hidden, weight, bias, targets, normalizer, kept)
        ctx.mark_non_differentiable(entropy, squares, top)
        return log_probs, entropy, squares, top

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        """Compute d log p_y / d z = 1[y] - p in place of the probabilities, then the products of a linear layer."""
        gradient = gradients[0]
        hidden, weight, bias, targets, normalizer, kept = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        to_hidden = torch.empty_like(hidden) if wants_hidden else None
        to_weight = torch.zeros_like(weight) if wants_weight else None
        to_bias = torch.zeros_like(bias) if wants_bias else None
        # The weight's gradient is as large as the weight, so it is updated as rarely as possible.
        step = max(1, len(hidden) if kept is not None else (KEPT if wants_weight else TILE) // len(weight))
        for part in (slice(start, start + step) for start in range(0, len(hidden), step)):
            if kept is not None:
                p = kept[part]
            else:
                p = _project(hidden[part], weight, bias).sub_(normalizer[part, None]).exp_()
            # This overwrites the kept probabilities: a second backward pass through the same graph would be wrong.
            p.mul_(-gradient[part, None])
            p[torch.arange(len(p), device=p.device), targets[part]] += gradient[part]
            if to_hidden is not None:
                torch.mm(p, weight, out=to_hidden[part])
            if to_weight is not None:
                to_weight.addmm_(p.t(), hidden[part])
            if to_bias is not None:
                to_bias += p.sum(0)
        return to_hidden, to_weight, to_bias, None, None


def _project(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    if bias is None:
        return torch.mm(hidden, weight.t(), out=out)
    return torch.addmm(bias, hidden, weight.t(), out=out)


def score(head: torch.nn.Linear, hidden: Tensor, targets: Tensor, fields: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the ``fields`` of ``Scored`` of targets (M,) from hidden states (M, H), each (M,)."""
    names = ("log_probs", "entropy", "log_sum_sq_probs", "is_top1")
    found = dict(zip(names, LogProbs.apply(hidden, head.weight, head.bias, targets, fields), strict=True))
    if "mean_logits" in fields:
        with torch.no_grad():
            found["mean_logits"] = torch.mv(hidden, head.weight.mean(0))
            if head.bias is not None:
                found["mean_logits"] += head.bias.mean()
    return {name: found[name] for name in fields}


def scattered(values: dict[str, Tensor], mask: Tensor) -> Scored:
    """Return ``values``, each (M,) or (1, M), at the M positions of ``mask``."""
    loss = -values["log_probs"].sum() / mask.sum().clamp(min=1)
    places = {name: value.new_zeros(mask.shape).masked_scatter(mask, value) for name, value in values.items()}
    return Scored(loss=loss, label_mask=mask, **places)
