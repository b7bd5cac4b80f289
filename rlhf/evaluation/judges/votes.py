"""Pairwise preferences between two models, by scores or by a judge, and length-matched win rates."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from rlhf.data.render import Prompt
from rlhf.evaluation.judges.judge import Judge
from rlhf.evaluation.statistics.metrics import KEPT, Estimate

RIDGE = 1e-2
"""L2 penalty of the regression: if one side always wins, the likelihood has no maximum."""


class Compared(NamedTuple):
    """Responses of two models to one prompt: preferences for our side (n,) in [0, 1], our lengths - theirs (n,)."""

    preferences: np.ndarray
    longer: np.ndarray

    @classmethod
    def of(
        cls, preferences: Sequence[float | None], our_lengths: Sequence[int], their_lengths: Sequence[int]
    ) -> "Compared":
        """Return our sample j against their sample j, for each j with a preference."""
        lengths = zip(preferences, our_lengths, their_lengths, strict=False)
        kept = [(value, a - b) for value, a, b in lengths if value is not None]
        return cls(np.array([value for value, _ in kept]), np.array([longer for _, longer in kept], dtype=float))


def by_scores(
    ours: Sequence[Sequence[float]],
    theirs: Sequence[Sequence[float]],
    our_lengths: Sequence[Sequence[int]],
    their_lengths: Sequence[Sequence[int]],
) -> list[Compared]:
    """Return each of our samples against each of their samples, by prompt; the higher score wins. All are (B, K)."""
    found = []
    for a, b, m, n in zip(ours, theirs, our_lengths, their_lengths, strict=True):
        gap = np.subtract.outer(np.array(a, dtype=float), np.array(b, dtype=float)).ravel()
        longer = np.subtract.outer(np.array(m, dtype=float), np.array(n, dtype=float)).ravel()
        found.append(Compared((gap > 0) + 0.5 * (gap == 0), longer))
    return found


def by_judge(
    judge: Judge,
    prompts: Sequence[Prompt],
    ours: Sequence[Sequence[str]],
    theirs: Sequence[Sequence[str]],
    limit: int | None = None,
) -> list[list[float | None]]:
    """Return the judge's preferences for our sample j over their sample j, by prompt; None without a verdict.

    At most ``limit`` pairs are judged, first samples of all prompts before second ones; the others are None.
    """
    pairs = sorted(
        (j, i) for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) for j in range(min(len(a), len(b)))
    )
    chosen = pairs[:limit]
    verdicts = judge([prompts[i] for _, i in chosen], *([side[i][j] for j, i in chosen] for side in (ours, theirs)))
    values = dict(zip(chosen, verdicts, strict=True))
    found: list[list[float | None]] = [[] for _ in prompts]
    for j, i in pairs:
        found[i].append(values.get((j, i)))
    return found


def length_matched(compared: Sequence[Compared], draws: int, seed: int, level: float = 0.95) -> Estimate | None:
    """Return P(our response is preferred) at equal length; None if all our responses are longer, or all shorter.

        logit P(preferred) = θ + φ tanh(Δ / std Δ),   length-matched win rate = sigmoid(θ)

    with Δ the difference in length. This is the minimal form of AlpacaEval 2's length-controlled win rate, Dubois et
    al. 2024, https://arxiv.org/abs/2404.04475. The leaderboard adds a term for the difficulty of each instruction,
    estimated from all of its models, so its numbers are not comparable with these. θ is an extrapolation unless Δ = 0
    lies within the data. Prompts weigh equally. The interval bootstraps prompts; each draw takes one Newton step from
    the full fit instead of a new fit, which differs in second order.

    Raises:
        ValueError: ``compared`` is empty.
    """
    if not compared:
        raise ValueError("a win rate needs at least one prompt")
    preferred = np.concatenate([prompt.preferences for prompt in compared])
    longer = np.concatenate([prompt.longer for prompt in compared])
    weights = np.concatenate([np.full(len(prompt.longer), 1 / len(prompt.longer)) for prompt in compared])
    if longer.min() > 0 or longer.max() < 0:
        return None
    deviation = longer.std()
    features = np.stack([np.ones_like(longer), np.tanh(longer / deviation) if deviation else 0 * longer], axis=1)
    fit = logistic(features, preferred, weights)
    gradient, curvature = derivatives(fit, features, preferred, weights)
    starts = np.cumsum([0, *(len(prompt.longer) for prompt in compared)])[:-1]
    gradients, curvatures = (np.add.reduceat(part, starts, axis=0) for part in (gradient, curvature))
    counts = times_drawn(len(compared), draws, seed)
    penalty = RIDGE * np.eye(2)
    steps = np.linalg.solve(
        np.einsum("dp,pij->dij", counts, curvatures) + penalty, (counts @ gradients - RIDGE * fit)[..., None]
    )
    low, high = np.quantile(sigmoid(fit[0] + steps[:, 0, 0]), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(sigmoid(fit[0])), float(low), float(high))


def times_drawn(count: int, draws: int, seed: int) -> np.ndarray:
    """Return how often a bootstrap draws each of ``count`` prompts, (draws, count)."""
    return (_times_drawn if count * draws <= KEPT else _times_drawn.__wrapped__)(count, draws, seed)


@lru_cache(maxsize=2)
def _times_drawn(count: int, draws: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws)
    drawn.flags.writeable = False
    return drawn


def logistic(features: np.ndarray, targets: np.ndarray, weights: np.ndarray, steps: int = 50) -> np.ndarray:
    """Fit a logistic regression with the L2 penalty `RIDGE` by Newton's method; returns the coefficients (d,).

    ``features`` are (n, d); ``targets`` in [0, 1] and ``weights`` are (n,).
    """
    fit = np.zeros(features.shape[1])
    for _ in range(steps):
        gradient, curvature = derivatives(fit, features, targets, weights)
        step = np.linalg.solve(curvature.sum(0) + RIDGE * np.eye(len(fit)), gradient.sum(0) - RIDGE * fit)
        fit = fit + step
        if np.abs(step).max() < 1e-10:
            break
    return fit


def derivatives(
    fit: np.ndarray, features: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return gradient (n, d) and curvature (n, d, d) of each row's log-likelihood at the coefficients ``fit`` (d,)."""
    expected = sigmoid(features @ fit)
    gradient = (weights * (targets - expected))[:, None] * features
    curvature = (weights * expected * (1 - expected))[:, None, None] * features[:, :, None] * features[:, None, :]
    return gradient, curvature


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + e⁻ˣ), elementwise."""
    return 1 / (1 + np.exp(-x))
