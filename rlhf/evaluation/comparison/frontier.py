"""Reward over KL from the reference: best-of-n, and the law of over-optimization."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf.console import plural
from rlhf.errors import TrainingError
from rlhf.evaluation.responses.best_of_n import best_of_n_kl


class Point(NamedTuple):
    """A point of a curve. ``kl`` is in nats per response; ``values``: reward -> mean score."""

    kl: float
    values: dict[str, float]


class Law(NamedTuple):
    """The law of over-optimization with d = √KL, in two forms; R is the gain over ``start``.

        reinforcement learning:  R(d) = d (α - β log d)
        best of n:               R(d) = d (α - β d)

    Gao et al. 2022, https://arxiv.org/abs/2210.10760, section 3.1. ``farthest`` is the largest KL of the fitted points;
    beyond it the law is an extrapolation.
    """

    alpha: float
    beta: float
    start: float
    farthest: float = math.inf
    best_of_n: bool = False

    def __call__(self, kl: float) -> float:
        """Return the expected reward at a KL of ``kl`` nats per response."""
        d = math.sqrt(max(kl, 0.0))
        return self.start + (d * (self.alpha - self.beta * _bend(d, self.best_of_n)) if d else 0.0)

    @property
    def peak(self) -> float | None:
        """The KL at which the reward is highest: exp(α/β - 1)², or (α / 2β)² for best-of-n.

        None if the law has no peak within the data (up to ``farthest``).
        """
        if self.beta <= 0 or (self.best_of_n and self.alpha <= 0):
            return None
        ratio = self.alpha / self.beta
        peak = (ratio / 2) ** 2 if self.best_of_n else math.exp(min(2 * (ratio - 1), 700))
        return peak if peak <= self.farthest else None


def _bend(d: Any, best_of_n: bool) -> Any:
    """Return the factor of β: d for best-of-n, else log d."""
    return d if best_of_n else np.log(d)


def fit_law(kls: Sequence[float], rewards: Sequence[float], start: float, *, best_of_n: bool = False) -> Law | None:
    """Fit α and β by least squares, with R = reward - ``start``.

    None for fewer than three points with a KL above 0. ``kls`` and ``rewards`` are (n,).
    """
    kept = [(math.sqrt(kl), reward - start) for kl, reward in zip(kls, rewards, strict=True) if kl > 1e-6]
    if len(kept) < 3:
        return None
    d, gained = np.array(kept).T
    (alpha, beta), *_ = np.linalg.lstsq(np.stack([d, -d * _bend(d, best_of_n)], axis=1), gained, rcond=None)
    return Law(float(alpha), float(beta), start, float(d.max() ** 2), best_of_n)


def best_of_n(proxy: Sequence[float], values: Sequence[float], n: int) -> float:
    """Return the expected value of the response with the highest ``proxy`` among n drawn without replacement from k.

    `expected_best` for a selection by one score and a measurement by another. Responses with equal proxies are equally
    likely to be selected. ``proxy`` and ``values`` are (k,).

    Raises:
        ValueError: n is not between 1 and k.
    """
    count = len(proxy)
    if not 1 <= n <= count:
        raise ValueError(f"the best of {n} cannot be estimated from {plural(count, 'score')}")
    tied: dict[float, list[float]] = {}
    for score, value in zip(proxy, values, strict=True):
        tied.setdefault(score, []).append(value)
    averaged = [sum(tied[score]) / len(tied[score]) for score in sorted(proxy)]
    subsets = math.comb(count, n)
    return sum(math.comb(i, n - 1) / subsets * value for i, value in enumerate(averaged))


def best_of_n_points(scores: dict[str, list[list[float]]], proxy: str) -> list[Point]:
    """Return best-of-n by ``proxy`` for n from 1 to the number of samples per prompt, averaged over prompts.

    ``kl`` is the upper bound of `best_of_n_kl`, not an estimate.

    Args:
        scores: reward -> scores (B, K).
        proxy: the reward that selects.
    """
    most = min(map(len, scores[proxy]))
    return [
        Point(
            best_of_n_kl(n),
            {
                name: sum(
                    best_of_n(by, of, n) for by, of in zip(scores[proxy], scores[name], strict=True)
                ) / len(scores[proxy])
                for name in scores
            },
        )
        for n in range(1, most + 1)
    ]  # fmt: skip


def trajectory(lines: Sequence[dict[str, float]]) -> list[Point]:
    """Return the points of a PPO run, from the lines of its metrics.jsonl; the gold reward only if it was logged.

    Raises:
        TrainingError: a line has a KL and no score.
    """
    names = {"reward": "objective/scores", "gold": "objective/gold"}
    found = []
    for line in lines:
        if "objective/kl" in line:
            if "objective/scores" not in line:
                raise TrainingError(
                    f"step {line.get('step')} of a metrics.jsonl has objective/kl, but no objective/scores"
                )
            found.append(Point(line["objective/kl"], {key: line[name] for key, name in names.items() if name in line}))
    return found


def efficient(points: Sequence[Sequence[float]], directions: Sequence[str]) -> list[bool]:
    """Return for each point whether it is on the Pareto front: no other point dominates it.

    A point dominates another if it is at least as good in every coordinate and better in one.

    Args:
        points: (n, coordinates).
        directions: maximize or minimize, one per coordinate.
    """
    signs = np.array([1.0 if direction == "maximize" else -1.0 for direction in directions])
    values = np.array(points, dtype=float).reshape(len(points), len(directions)) * signs
    return [not any((other >= point).all() and (other > point).any() for other in values) for point in values]
