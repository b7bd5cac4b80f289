"""Randomness that can be drawn again: a run is resumed without the state of any generator."""

import hashlib
from functools import lru_cache

import torch
from torch import Tensor


def derive(seed: int, *parts: int | str) -> int:
    """A seed below 2⁶³ for one purpose, from the run's; the same in every process and on every machine."""
    digest = hashlib.sha256(repr((seed, *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@lru_cache(maxsize=4)
def permutation(length: int, seed: int, *parts: int | str) -> Tensor:
    """The numbers below ``length`` in an order of their own for one purpose; not to be written to."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(derive(seed, *parts)))
