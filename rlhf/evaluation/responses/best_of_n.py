"""Best-of-n sampling: the baseline that optimizes a reward without training."""

import math
from collections.abc import Sequence

from rlhf.console import plural


def expected_best(scores: Sequence[float], n: int) -> float:
    """Return the mean of the best of n scores over all subsets of the k scores.

        Σᵢ C(i-1, n-1) / C(k, n) · x₍ᵢ₎,   x₍₁₎ ≤ ... ≤ x₍ₖ₎

    This is the unbiased estimator of Nakano et al. 2021, https://arxiv.org/abs/2112.09332, appendix I.

    Raises:
        ValueError: n is not between 1 and the number of scores.
    """
    if not 1 <= n <= len(scores):
        raise ValueError(f"the best of {n} cannot be estimated from {plural(len(scores), 'score')}")
    subsets = math.comb(len(scores), n)
    return sum(math.comb(i, n - 1) / subsets * score for i, score in enumerate(sorted(scores)))


def best_of_n_kl(n: int) -> float:
    """Return an upper bound of KL(best of n ‖ sampled policy), in nats: log n - (n - 1) / n.

    Stiennon et al. 2020, https://arxiv.org/abs/2009.01325, appendix G.3. It is exact if no two responses have the same
    score and each is unlikely (Beirami et al. 2024, https://arxiv.org/abs/2401.01879, theorem 1).
    """
    return math.log(n) - (n - 1) / n
