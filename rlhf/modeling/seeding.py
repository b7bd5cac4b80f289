"""Reproducible randomness: a run is resumed without stored generator states."""

import hashlib
from functools import lru_cache

import torch
from torch import Tensor


def derive(seed: int, *parts: int | str) -> int:
    """Return a seed below 2⁶³ for one purpose, derived from the run's; equal in all processes and on all machines."""
    digest = hashlib.sha256(repr((seed, *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@lru_cache(maxsize=4)
def permutation(length: int, seed: int, *parts: int | str) -> Tensor:
    """Return a permutation of the numbers below ``length`` for one purpose. It is cached: do not modify it."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(derive(seed, *parts)))
