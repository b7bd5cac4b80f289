"""Masked statistics and log-probabilities.

B responses, T response tokens, V entries of the vocabulary; a mask is True where a token counts.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


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


def entropies(logits: Tensor, temperature: float) -> Tensor:
    """-Σ_v p_v log p_v of softmax(zₜ / τ) in nats; (B, T, V) -> (B, T)."""
    logp = torch.log_softmax(precise(logits) / temperature, dim=-1)
    return -(logp.exp() * logp).sum(-1)


def precise(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 where it is already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def last_index(mask: Tensor) -> Tensor:
    """Column of the last True entry of each row, (B, T) -> (B,). Rows are True from their start."""
    return mask.sum(-1) - 1
