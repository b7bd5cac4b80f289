"""Masked statistics and log-probabilities.

B responses, T response tokens, V entries of the vocabulary; a mask is True where a token counts.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

TILE = 2**18  # entries that are worked on at a time: a megabyte in float32, which a core's cache holds


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Σ mₜ xₜ. Multiplies after replacing what is masked, so that an infinity under the mask cannot become a nan."""
    return torch.where(mask, x, torch.zeros_like(x)).sum()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Σ mₜ xₜ / Σ mₜ over all dimensions; both (B, T) -> ()."""
    return masked_sum(x, mask) / mask.sum()


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Unbiased variance of the unmasked entries, (B, T) -> (); 0 where there is one entry alone."""
    count = mask.sum()
    squares = masked_sum((x - masked_mean(x, mask)) ** 2, mask)
    return squares / (count - 1).clamp(min=1)


def standardize(x: Tensor, mask: Tensor, mean: Tensor | None = None, var: Tensor | None = None) -> Tensor:
    """(x - mean) / sqrt(var + 1e-8) where the mask is True, and 0 elsewhere; (B, T) -> (B, T).

    ``mean`` and ``var`` are those of the unmasked entries, unless given (from all ranks, say).
    """
    mean = masked_mean(x, mask) if mean is None else mean
    var = masked_var(x, mask) if var is None else var
    return torch.where(mask, (x - mean) * torch.rsqrt(var + 1e-8), torch.zeros_like(x))


def token_shares(mask: Tensor, by_response: bool) -> Tensor:
    """What each token weighs in the mean of a loss, before division by the sum of all; (B, T) -> (B, T).

    1, so that every token counts alike, or 1 / the length of its response, so that every response does.
    """
    shares = mask.float()
    return shares / shares.sum(-1, keepdim=True) if by_response else shares


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """log softmax(zₜ / τ)[aₜ]: logits z (B, T, V), tokens a (B, T) -> (B, T), in float32 or better.

    The temperature divides the logits wherever log-probabilities are taken: they are then those of the distribution
    that the tokens were drawn from.
    """
    scaled = precise(logits) / temperature
    return -cross_entropy(scaled.flatten(0, 1), tokens.flatten(), reduction="none").view(tokens.shape)


def token_logprobs_and_entropies(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """``token_logprobs`` and entropies -Σ_v p_v log p_v of softmax(z / τ), in nats; z (N, V), a (N,) -> both (N,).

    What is as wide as the vocabulary is made for some tokens at a time, forwards and backwards, where the gradient
    takes the place of the logits: they are not to be read again.
    """
    return _LogprobsAndEntropies.apply(logits, tokens, temperature)


class _LogprobsAndEntropies(torch.autograd.Function):
    """With p = softmax(z / τ), l = log p[a], H = -Σ p log p: ∂l/∂z = (1[a] - p) / τ and ∂H/∂z = -p (log p + H) / τ."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        kind = torch.promote_types(logits.dtype, torch.float32)
        logprobs, found, normalisers = (torch.empty(len(tokens), dtype=kind, device=logits.device) for _ in range(3))
        for part in _tiles(logits):
            scaled = logits[part].to(kind) / temperature
            chosen = scaled.gather(1, tokens[part, None])[:, 0]
            most = scaled.amax(-1, keepdim=True)
            weights = scaled.sub_(most).exp()
            total = weights.sum(-1)
            # H = log Σ e^z' - Σ p z' with z' = z - max z; what has no weight counts for nothing, at -inf too.
            mean = (weights.mul_(scaled.clamp_(min=torch.finfo(kind).min))).sum(-1) / total
            normalisers[part] = most[:, 0] + total.log()
            logprobs[part], found[part] = chosen - normalisers[part], total.log() - mean
        ctx.save_for_backward(logits, tokens, normalisers, found)
        ctx.temperature = temperature
        return logprobs, found

    @staticmethod
    def backward(ctx: Any, of_logprobs: Tensor, of_entropies: Tensor) -> tuple[Tensor, None, None]:
        logits, tokens, normalisers, found = ctx.saved_tensors
        for part in _tiles(logits):
            logp = logits[part].to(normalisers.dtype).div(ctx.temperature).sub_(normalisers[part, None])
            p = logp.exp()
            gradient = p * -of_logprobs[part, None]
            if of_entropies.any():
                logp.clamp_(min=torch.finfo(logp.dtype).min)
                gradient -= of_entropies[part, None] * p * (logp + found[part, None])
            gradient.scatter_add_(1, tokens[part, None], of_logprobs[part, None])
            logits[part] = gradient.div_(ctx.temperature)
        return logits, None, None


def _tiles(logits: Tensor) -> Iterator[slice]:
    """Slices of rows of about ``TILE`` entries."""
    rows = max(TILE // logits.shape[-1], 1)
    return (slice(start, start + rows) for start in range(0, len(logits), rows))


def precise(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 where it is already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def last_index(mask: Tensor) -> Tensor:
    """Column of the last True entry of each row, (B, T) -> (B,). Rows are True from their start."""
    return mask.sum(-1) - 1
