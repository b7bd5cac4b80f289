"""Fits of the law of over-optimization: worked values, recovery, and intervals that cover at their rate."""

import math
from itertools import starmap

import numpy as np
import pytest
from scipy import stats

from rlhf.evaluation.comparison.frontier import Law
from rlhf.evaluation.sweeps.overoptimization import averaged, fit, of_best_of_n, terms

KLS = np.linspace(0, 12, 60)
TRUE = Law(alpha=1.6, beta=1.0, start=1.3, farthest=12.0)  # peaks at exp(2 (1.6 - 1)) = 3.32


def noisy(law: Law, generator: np.random.Generator) -> list[float]:
    return [law(kl) + generator.normal(0, 0.1) for kl in KLS]


def test_the_factors_by_hand() -> None:
    assert terms([0.0, 1.0, math.e**2, -0.1], False).tolist() == [
        [1, 0, 0], [1, 1, 0], pytest.approx([1, math.e, -math.e]), [1, 0, 0],
    ]  # fmt: skip
    assert terms([4.0], True).tolist() == [[1, 2, -4]]


def test_least_squares_by_a_second_implementation() -> None:
    scores = noisy(TRUE, np.random.default_rng(0))
    found = fit(KLS, scores)
    assert found is not None
    x = terms(KLS, False)
    hat = x @ np.linalg.solve(x.T @ x, x.T)
    assert [found.law(kl) for kl in KLS] == pytest.approx((hat @ scores).tolist())
    mean, half = found.predicted(4.0)
    row = terms([4.0], False)[0]
    spread = math.sqrt(sum((np.array(scores) - hat @ scores) ** 2) / 57)
    assert mean == pytest.approx(found.law(4.0))
    assert half == pytest.approx(stats.t.ppf(0.975, 57) * spread * math.sqrt(row @ np.linalg.inv(x.T @ x) @ row))


@pytest.mark.parametrize("by_best_of_n", [False, True])
def test_intervals_cover_the_true_values_at_their_rate(by_best_of_n: bool) -> None:
    law = Law(1.6, 0.4, 1.3, 12.0, best_of_n=True) if by_best_of_n else TRUE
    generator, inside, trials = np.random.default_rng(7), np.zeros(5), 1000
    for _ in range(trials):
        found = fit(KLS, noisy(law, generator), by_best_of_n=by_best_of_n)
        assert found is not None
        pairs = zip(found.coefficients, found.halves(), strict=True)
        covered = [abs(value - true) <= half for (value, half), true in zip(pairs, (1.3, *law[:2]), strict=True)]
        mean, half = found.predicted(5.0)
        low, high = found.peak() or (0.0, math.inf)
        assert law.peak is not None
        inside += [*covered, abs(mean - law(5.0)) <= half, low <= law.peak <= high]
    for hits in inside:  # the rate of 1000 draws lies in this range 999 times of 1000
        assert stats.binom.ppf(0.0005, trials, 0.95) <= hits <= stats.binom.ppf(0.9995, trials, 0.95)


def test_the_interval_of_the_peak_is_unbounded_if_there_may_be_none() -> None:
    rising = fit(KLS, [kl**0.5 + (-1) ** n for n, kl in enumerate(KLS)])
    assert rising is not None
    assert rising.peak() is None
    exact = fit(KLS, [TRUE(kl) for kl in KLS])
    assert exact is not None
    assert exact.peak() == pytest.approx((TRUE.peak, TRUE.peak))


def test_too_few_points_or_a_policy_that_does_not_move_have_no_law() -> None:
    assert fit([0.0, 1.0, 2.0], [1.0, 2.0, 2.5]) is None
    assert fit([0.0] * 6, [1.0] * 6) is None
    assert of_best_of_n([[1.0, 2.0]] * 9, [[1.0, 2.0]] * 9) is None


def test_the_mean_over_seeds_by_hand() -> None:
    found = averaged([(1.0, 2.0, 0.5), (1.2, 2.4, 0.7), (1.4, 2.2, 0.6)], 9.0)
    assert found.coefficients == pytest.approx([1.2, 2.2, 0.6])
    assert found.freedom == 2
    assert found.halves()[1] == pytest.approx(4.302653 * 0.2 / 3**0.5, rel=1e-6)  # t(0.975, 2) s / √n


def test_best_of_n_has_one_estimate_per_prompt() -> None:
    generator = np.random.default_rng(3)
    gold = generator.normal(size=(40, 16))
    proxy = gold + generator.normal(size=gold.shape)
    found = of_best_of_n(proxy.tolist(), gold.tolist())
    assert found is not None
    law, means = found
    assert law.freedom == 39
    assert means[0] == pytest.approx(gold.mean())
    assert means[-1] == pytest.approx(gold[np.arange(40), proxy.argmax(1)].mean())
    whole = fit([math.log(n) - (n - 1) / n for n in range(1, 17)], means, by_best_of_n=True)
    assert whole is not None
    assert law.coefficients == pytest.approx(whole.coefficients)
    doubled = of_best_of_n([*proxy.tolist()] * 2, [*gold.tolist()] * 2)
    assert doubled is not None
    ratio = [*starmap(lambda a, b: a / b, zip(doubled[0].covariance.ravel(), law.covariance.ravel(), strict=True))]
    assert ratio == pytest.approx([39 / 79] * 9)  # s² / n with n - 1 = 39 and 79
