"""Which of two responses is better: by scores, or by whoever is asked; plain, and as if both were equally long."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf.data.render import Prompt
from rlhf.evaluation.judges.judge import Judge
from rlhf.evaluation.statistics.metrics import Estimate

RIDGE = 1e-2
"""Of the regression, in responses: where one side always wins the likelihood has no maximum."""


class Compared(NamedTuple):
    """Responses of two models to one prompt: preferences (n,) in [0, 1] and differences in length (n,)."""

    preferences: np.ndarray
    longer: np.ndarray

    @classmethod
    def of(
        cls, preferences: Sequence[float | None], our_lengths: Sequence[int], their_lengths: Sequence[int]
    ) -> "Compared":
        """Sample j of ours against sample j of theirs, where there is a preference."""
        lengths = zip(preferences, our_lengths, their_lengths, strict=False)
        kept = [(value, a - b) for value, a, b in lengths if value is not None]
        return cls(np.array([value for value, _ in kept]), np.array([longer for _, longer in kept], dtype=float))


def by_scores(
    ours: Sequence[Sequence[float]],
    theirs: Sequence[Sequence[float]],
    our_lengths: Sequence[Sequence[int]],
    their_lengths: Sequence[Sequence[int]],
) -> list[Compared]:
    """Every sample of ours against every one of theirs to the same prompt: the higher score is preferred."""
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
    """``judge``'s preferences between sample j of ours and sample j of theirs, by prompt; None: it came to none.

    Of more than ``limit`` pairs the first samples of all prompts come before the second of any; the others are None.
    """
    pairs = sorted(
        (j, i) for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) for j in range(min(len(a), len(b)))
    )
    chosen = pairs[:limit]
    given = judge([prompts[i] for _, i in chosen], *([side[i][j] for j, i in chosen] for side in (ours, theirs)))
    values = dict(zip(chosen, given, strict=True))
    found: list[list[float | None]] = [[] for _ in prompts]
    for j, i in pairs:
        found[i].append(values.get((j, i)))
    return found


def length_matched(compared: Sequence[Compared], draws: int, seed: int, level: float = 0.95) -> Estimate | None:
    """Return P(ours is preferred) if both were equally long; None if all of ours are longer, or all shorter.

        logit P(ours preferred) = θ + φ tanh(Δ / std Δ),   length-matched win rate = sigmoid(θ)

    with Δ the difference in length. This is the minimal form of AlpacaEval 2's length-controlled win rate, Dubois et
    al. 2024, https://arxiv.org/abs/2404.04475: the leaderboard's has a term for the difficulty of each instruction,
    estimated from all of its models, so its numbers are not comparable with these. Without a Δ on both sides of zero,
    or equal to it, θ would be an extrapolation. Prompts count equally. The interval bootstraps prompts; each draw takes
    one Newton step from the whole fit instead of fitting again, which differs in the second order.

    Raises:
        ValueError: there is no prompt.
    """
    if not compared:
        raise ValueError("a win rate needs at least one prompt")
    preferred = np.concatenate([one.preferences for one in compared])
    longer = np.concatenate([one.longer for one in compared])
    weights = np.concatenate([np.full(len(one.longer), 1 / len(one.longer)) for one in compared])
    if longer.min() > 0 or longer.max() < 0:
        return None
    deviation = longer.std()
    features = np.stack([np.ones_like(longer), np.tanh(longer / deviation) if deviation else 0 * longer], axis=1)
    fit = logistic(features, preferred, weights)
    gradient, curvature = derivatives(fit, features, preferred, weights)
    starts = np.cumsum([0, *(len(one.longer) for one in compared)])[:-1]
    gradients, curvatures = (np.add.reduceat(part, starts, axis=0) for part in (gradient, curvature))
    counts = np.random.default_rng(seed).multinomial(len(compared), np.full(len(compared), 1 / len(compared)), draws)
    penalty = RIDGE * np.eye(2)
    steps = np.linalg.solve(
        np.einsum("dp,pij->dij", counts, curvatures) + penalty, (counts @ gradients - RIDGE * fit)[..., None]
    )
    low, high = np.quantile(sigmoid(fit[0] + steps[:, 0, 0]), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(sigmoid(fit[0])), float(low), float(high))


def logistic(features: np.ndarray, targets: np.ndarray, weights: np.ndarray, steps: int = 50) -> np.ndarray:
    """Coefficients of a logistic regression on targets in [0, 1], by Newton's method with a ridge of `RIDGE`."""
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
    """Gradient (n, d) and curvature (n, d, d) of each row's log-likelihood."""
    expected = sigmoid(features @ fit)
    gradient = (weights * (targets - expected))[:, None] * features
    curvature = (weights * expected * (1 - expected))[:, None, None] * features[:, :, None] * features[:, None, :]
    return gradient, curvature


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
