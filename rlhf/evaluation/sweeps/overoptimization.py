"""The law of over-optimization fitted with intervals: coefficients, the KL of its peak, and predictions.

Gao et al. 2022, https://arxiv.org/abs/2210.10760, section 1. The gain R is linear in α and β, and so is the score
c + R in (c, α, β) with the score c of the start: all fits are linear least squares. α/β is a ratio of normal
estimates, whose exact interval is Fieller's (1954, https://www.jstor.org/stable/2984043).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf.config import OveroptimizeStage
from rlhf.evaluation.comparison.frontier import Law, best_of_n
from rlhf.evaluation.responses.best_of_n import best_of_n_kl

LEVEL = 0.95
TRAINED, BEST_OF_N, CHECK, PROPOSAL = "rl", "best_of_n", "check", "proposal"  # runs, and a key of the page's JSON


def models(stage: OveroptimizeStage) -> list[str]:
    """Return the name of each reward model."""
    return [f"{size}-{pairs}" for size in stage.sizes for pairs in stage.pairs]


def proposed(stage: OveroptimizeStage) -> str:
    """Return the reward model that the target is proposed for: that of the first size with the most pairs."""
    return f"{next(iter(stage.sizes))}-{max(stage.pairs)}"


class Fit(NamedTuple):
    """A law with the covariance (3, 3) of its coefficients c, α, β and the degrees of freedom of that estimate."""

    law: Law
    covariance: Any
    freedom: int

    @property
    def coefficients(self) -> list[float]:
        """The estimates of c, α and β."""
        return [self.law.start, self.law.alpha, self.law.beta]

    @property
    def quantile(self) -> float:
        """The factor of a standard error in a 95 % interval, from Student's t distribution."""
        from scipy import stats  # takes half a second

        return float(stats.t.ppf((1 + LEVEL) / 2, self.freedom))

    def halves(self) -> list[float]:
        """Return half of the intervals of c, α and β."""
        return [self.quantile * math.sqrt(variance) for variance in np.diag(self.covariance)]

    def predicted(self, kl: float) -> tuple[float, float]:
        """Return the expected score at a KL of ``kl`` and half of its interval."""
        row = terms([kl], self.law.best_of_n)[0]
        return self.law(kl), self.quantile * math.sqrt(max(row @ self.covariance @ row, 0.0))

    def peak(self) -> tuple[float, float] | None:
        """Return the interval of the KL at which the score is highest; None if it is unbounded or has no peak.

        It is bounded if the interval of β excludes 0.
        """
        _, alpha, beta = self.coefficients
        _, (_, va, cov), (_, _, vb) = self.covariance * self.quantile**2
        # (α - θβ)² ≤ t² Var(α - θβ) as a quadratic in θ = α/β
        square, half, constant = beta**2 - vb, alpha * beta - cov, alpha**2 - va
        if square <= 0 or beta <= 0:
            return None
        root = math.sqrt(max(half**2 - square * constant, 0.0))
        low, high = ((half + sign * root) / square for sign in (-1, 1))
        if self.law.best_of_n:
            return max(low / 2, 0.0) ** 2, max(high / 2, 0.0) ** 2
        return math.exp(min(2 * (low - 1), 700)), math.exp(min(2 * (high - 1), 700))


def terms(kls: Sequence[float], by_best_of_n: bool) -> Any:
    """Return the factors (n, 3) of c, α and β at each KL; a KL below 0, by sampling noise, counts as 0."""
    d = np.sqrt(np.maximum(np.asarray(kls, dtype=float), 0.0))
    bend = d if by_best_of_n else np.log(np.where(d > 0, d, 1.0))
    return np.stack([np.ones_like(d), d, -d * bend], axis=1)


def fit(kls: Sequence[float], scores: Sequence[float], *, by_best_of_n: bool = False) -> Fit | None:
    """Fit c, α and β by least squares to independent scores (n,); None if the KLs do not determine them."""
    x, y = terms(kls, by_best_of_n), np.asarray(scores, dtype=float)
    freedom = len(y) - x.shape[1]
    if freedom < 1 or np.linalg.matrix_rank(x) < x.shape[1]:
        return None
    found = np.linalg.lstsq(x, y, rcond=None)[0]
    variance = float(((y - x @ found) ** 2).sum()) / freedom
    return Fit(_law(found, max(kls), by_best_of_n), variance * np.linalg.inv(x.T @ x), freedom)


def averaged(fits: Any, farthest: float, *, by_best_of_n: bool = False) -> Fit:
    """Return the mean of independent estimates ``fits`` (n, 3) of c, α and β, with the covariance of that mean."""
    rows = np.asarray(fits, dtype=float)
    covariance = np.cov(rows, rowvar=False) / len(rows)
    return Fit(_law(rows.mean(0), farthest, by_best_of_n), covariance, len(rows) - 1)


def _law(found: Any, farthest: float, by_best_of_n: bool) -> Law:
    start, alpha, beta = map(float, found)
    return Law(alpha, beta, start, float(farthest), by_best_of_n)


def of_best_of_n(proxy: Sequence[Sequence[float]], gold: Sequence[Sequence[float]]) -> tuple[Fit, list[float]] | None:
    """Return the law of best-of-n by ``proxy``, and the mean gold reward for n from 1 to K; None for K below 4.

    The points of a curve share their responses, and only prompts are independent. Since least squares is linear in the
    scores, the estimate is the mean of one estimate per prompt, from whose spread its covariance follows. Both are
    (B, K).
    """
    numbers = range(1, min(map(len, proxy)) + 1)
    if len(numbers) < 4 or len(proxy) < 3:
        return None
    kls = [best_of_n_kl(n) for n in numbers]
    curves = np.array([[best_of_n(by, of, n) for n in numbers] for by, of in zip(proxy, gold, strict=True)])
    estimates = curves @ np.linalg.pinv(terms(kls, True)).T
    return averaged(estimates, kls[-1], by_best_of_n=True), curves.mean(0).tolist()
