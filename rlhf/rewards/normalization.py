"""Scores of a term normalized to mean 0 and deviation 1, so that weights do not depend on its scale."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

OverRanks = Callable[[Tensor], Tensor]  # the sum of a tensor over all ranks
SMALLEST = 1e-6  # deviation; equal scores become 0 instead of nan


def alone(x: Tensor) -> Tensor:
    """Return ``x``: the ``OverRanks`` of a single process."""
    return x


class FixedNormalizer(NamedTuple):
    """(score - mean) / std with constant statistics, measured by stage=reward on the policy's responses."""

    mean: float
    std: float

    def __call__(self, scores: Sequence[float]) -> list[float]:
        return [(score - self.mean) / max(self.std, SMALLEST) for score in scores]


class RunningNormalizer:
    """(score - mean) / std over all scores of all ranks so far, including the current batch.

    Batches are combined by their counts, means and sums of squares (Chan et al. 1979, eq. 2.1,
    http://i.stanford.edu/pub/cstr/reports/cs/tr/79/773/CS-TR-79-773.pdf), which avoids cancellation. The statistics are
    part of a checkpoint. The normalization drifts as the policy improves: 0 is the mean over the whole run.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0.0, 0.0, 0.0

    @property
    def std(self) -> float:
        """The unbiased standard deviation; 0 for fewer than two scores."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0

    def learn(self, scores: Sequence[float], over_ranks: OverRanks = alone) -> None:
        """Add this batch, which may be empty. Every rank must call it with its own scores, and all end up equal."""
        x = torch.tensor(scores, dtype=torch.float64)
        count, total = over_ranks(torch.stack([torch.tensor(len(x), dtype=torch.float64), x.sum()])).tolist()
        if not count:
            return
        mean = total / count
        squares = over_ranks(((x - mean) ** 2).sum()).item()
        whole, shift = self.count + count, mean - self.mean
        self.squares += squares + shift**2 * self.count * count / whole
        self.mean += shift * count / whole
        self.count = whole

    def __call__(self, scores: Sequence[float]) -> list[float]:
        return FixedNormalizer(self.mean, self.std)(scores)

    def state_dict(self) -> dict[str, float]:
        """Return the statistics as JSON values."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore the statistics that ``state_dict`` returned."""
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]
