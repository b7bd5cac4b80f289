"""Best-of-n compared with enumeration, and the fitted law of over-optimization with the true one."""

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.errors import TrainingError
from rlhf.evaluation.comparison.frontier import Law, best_of_n, best_of_n_points, fit_law, trajectory
from rlhf.evaluation.responses.best_of_n import expected_best


def enumerated(proxy: list[float], values: list[float], n: int) -> float:
    """Return the mean over all subsets of n; responses with equal proxies are equally likely to be selected."""
    found = []
    for subset in combinations(range(len(proxy)), n):
        best = max(proxy[i] for i in subset)
        ties = [values[i] for i in range(len(proxy)) if proxy[i] == best]
        found.append(sum(ties) / len(ties))
    return sum(found) / len(found)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), min_size=1, max_size=6), st.data())
def test_the_best_of_n_is_the_mean_over_all_subsets(pairs: list, data: st.DataObject) -> None:
    proxy, values = ([float(x) for x in side] for side in zip(*pairs, strict=True))
    n = data.draw(st.integers(1, len(pairs)))
    assert best_of_n(proxy, values, n) == pytest.approx(enumerated(proxy, values, n))


def test_best_of_n_by_hand() -> None:
    assert best_of_n([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 2) == pytest.approx((2 + 3 + 3) / 3)
    assert best_of_n([1.0, 2.0, 3.0], [9.0, 5.0, 0.0], 3) == 0.0
    assert best_of_n([3.0, 1.0, 2.0], [3.0, 1.0, 2.0], 2) == expected_best([1.0, 2.0, 3.0], 2)
    for n in (0, 4):
        with pytest.raises(ValueError, match=f"the best of {n} cannot"):
            best_of_n([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], n)


def test_points_average_over_prompts() -> None:
    scores = {"reward": [[0.0, 1.0], [2.0, 2.0]], "gold": [[4.0, 0.0], [1.0, 3.0]]}
    one, two = best_of_n_points(scores, "reward")
    assert one.values == {"reward": 1.25, "gold": 2.0}
    assert two.values == {"reward": 1.5, "gold": 1.0}
    assert (one.kl, two.kl) == (0.0, pytest.approx(math.log(2) - 0.5))


def test_a_law_is_recovered_from_its_points() -> None:
    law = Law(alpha=2.0, beta=0.8, start=-1.0)
    kls = [0.0, 0.5, 1.0, 4.0, 9.0, 25.0]
    found = fit_law(kls, [law(kl) for kl in kls], -1.0)
    assert found == pytest.approx(law._replace(farthest=25.0))
    assert law(0.0) == -1.0
    assert law(1.0) == pytest.approx(1.0)  # log 1 = 0, so d α remains


def test_the_peak_is_the_maximum() -> None:
    law = Law(alpha=2.0, beta=0.8, start=0.0)
    assert law.peak == pytest.approx(math.exp(2 * (2.0 / 0.8 - 1)))
    assert law(law.peak) > max(law(law.peak * 0.9), law(law.peak * 1.1))
    assert Law(alpha=1.0, beta=-0.1, start=0.0).peak is None
    assert Law(alpha=1.0, beta=1e-300, start=0.0, farthest=9.0).peak is None


def test_a_peak_beyond_the_data_is_left_out() -> None:
    """A law fitted below a KL of 1.3 has its peak at 7, which is an extrapolation."""
    law = Law(alpha=2.0, beta=1.01, start=0.0)
    assert law.peak == pytest.approx(7.1, abs=0.1)
    kls = [0.1, 0.4, 0.9, 1.3]
    found = fit_law(kls, [law(kl) for kl in kls], 0.0)
    assert (found.alpha, found.beta) == pytest.approx((2.0, 1.01))
    assert found.farthest == pytest.approx(1.3)
    assert found.peak is None


def test_best_of_n_has_its_own_law() -> None:
    """Gao et al. 2022: d (α - β d), highest at d = α / 2β."""
    law = Law(alpha=2.0, beta=0.5, start=1.0, best_of_n=True)
    assert law(4.0) == pytest.approx(1.0 + 2 * (2.0 - 0.5 * 2))
    assert law.peak == pytest.approx(4.0)
    kls = [0.0, 0.5, 1.0, 4.0, 9.0]
    assert fit_law(kls, [law(kl) for kl in kls], 1.0, best_of_n=True) == pytest.approx(law._replace(farthest=9.0))
    assert Law(alpha=-1.0, beta=0.5, start=0.0, best_of_n=True).peak is None


def test_two_points_are_too_few_for_a_law() -> None:
    assert fit_law([0.0, -0.1, 1.0, 2.0], [0.0, 0.0, 1.0, 2.0], 0.0) is None


def test_the_points_of_a_run() -> None:
    lines = [
        {"step": 0, "val/x": 1.0},
        {"step": 1, "objective/kl": 0.5, "objective/scores": 2.0, "objective/gold": 3.0},
    ]
    assert trajectory(lines) == [(0.5, {"reward": 2.0, "gold": 3.0})]
    with pytest.raises(TrainingError, match="step 4 .* no objective/scores"):
        trajectory([{"step": 4, "objective/kl": 0.5}])
