"""Masked statistics and log-probabilities.

B responses, T response tokens, V entries of the vocabulary; a mask is True at the tokens that count.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

TILE = 2**18  # entries processed at a time: 1 MiB in float32, which fits into the cache of a core


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Return Σ mₜ xₜ. Masked entries are replaced by 0, so that an infinity under the mask does not become NaN."""
    return torch.where(mask, x, torch.zeros_like(x)).sum()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return Σ mₜ xₜ / Σ mₜ over all dimensions; both (B, T) -> ()."""
    return masked_sum(x, mask) / mask.sum()


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Return the unbiased variance of the unmasked entries, (B, T) -> (); 0 for a single entry."""
    count = mask.sum()
    squares = masked_sum((x - masked_mean(x, mask)) ** 2, mask)
    return squares / (count - 1).clamp(min=1)


def standardize(x: Tensor, mask: Tensor, mean: Tensor | None = None, var: Tensor | None = None) -> Tensor:
    """Return (x - mean) / sqrt(var + 1e-8) at unmasked entries and 0 at others; (B, T) -> (B, T).

    ``mean`` and ``var`` default to those of the unmasked entries; pass them to use statistics of all ranks.
    """
    mean = masked_mean(x, mask) if mean is None else mean
    var = masked_var(x, mask) if var is None else var
    return torch.where(mask, (x - mean) * torch.rsqrt(var + 1e-8), torch.zeros_like(x))


def token_shares(mask: Tensor, by_response: bool) -> Tensor:
    """Return the unnormalized weight of each token in the mean of a loss; (B, T) -> (B, T).

    1, so that all tokens weigh the same, or 1 / the length of the response, so that all responses do.
    """
    shares = mask.float()
    return shares / shares.sum(-1, keepdim=True) if by_response else shares


def token_logprobs_and_entropies(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log-probabilities log softmax(z / τ)[a] and entropies -Σ_v p_v log p_v of softmax(z / τ), in nats.

    Logits z (N, V), tokens a (N,) -> (N,) each, in float32 or better. With the sampling temperature τ, the distribution
    is the one that tokens were drawn from. Tensors with V columns are computed for a few tokens at a time. The backward
    pass overwrites the logits with their gradient, so they must not be read afterwards.
    """
    return _LogprobsAndEntropies.apply(logits, tokens, temperature)


class _LogprobsAndEntropies(torch.autograd.Function):
    """With p = softmax(z / τ), l = log p[a], H = -Σ p log p: ∂l/∂z = (1[a] - p) / τ and ∂H/∂z = -p (log p + H) / τ."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and entropies of ``tokens``, (N,) each, from logits (N, V)."""
        kind = torch.promote_types(logits.dtype, torch.float32)
        logprobs, found, normalizers = (torch.empty(len(tokens), dtype=kind, device=logits.device) for _ in range(3))
        for part in tiles(logits):
            scaled = logits[part].to(kind) / temperature
            chosen = scaled.gather(1, tokens[part, None])[:, 0]
            most = scaled.amax(-1, keepdim=True)
            weights = scaled.sub_(most).exp()
            total = weights.sum(-1)
            # H = log Σ e^z' - Σ p z' with z' = z - max z; entries at -inf contribute 0.
            mean = (weights.mul_(scaled.clamp_(min=torch.finfo(kind).min))).sum(-1) / total
            normalizers[part] = most[:, 0] + total.log()
            logprobs[part], found[part] = chosen - normalizers[part], total.log() - mean
        ctx.save_for_backward(logits, tokens, normalizers, found)
        ctx.temperature = temperature
        return logprobs, found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the logits, written over the logits."""
        of_logprobs, of_entropies = gradients
        logits, tokens, normalizers, found = ctx.saved_tensors
        entropic = bool(of_entropies.any())
        for part in tiles(logits):
            logp = logits[part].to(normalizers.dtype).div(ctx.temperature).sub_(normalizers[part, None])
            p = logp.exp()
            gradient = p * -of_logprobs[part, None]
            if entropic:
                logp.clamp_(min=torch.finfo(logp.dtype).min)
                gradient -= of_entropies[part, None] * p * (logp + found[part, None])
            gradient.scatter_add_(1, tokens[part, None], of_logprobs[part, None])
            logits[part] = gradient.div_(ctx.temperature)
        return logits, None, None


def tiles(logits: Tensor) -> Iterator[slice]:
    """Return slices of rows with about ``TILE`` entries each."""
    rows = max(TILE // logits.shape[-1], 1)
    return (slice(start, start + rows) for start in range(0, len(logits), rows))


def last_index(mask: Tensor) -> Tensor:
    """Return the column of the last True entry of each row, (B, T) -> (B,). Each row starts with its True entries."""
    return mask.sum(-1) - 1
