import itertools
import math
import random
import statistics

import pytest

from rlhf.evaluation.responses.best_of_n import best_of_n_kl, expected_best


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_expected_best_is_the_mean_over_all_subsets(n: int) -> None:
    scores = [0.3, -1.0, 2.0, 2.0, 0.7]
    subsets = [max(subset) for subset in itertools.combinations(scores, n)]
    assert expected_best(scores, n) == pytest.approx(statistics.fmean(subsets))


@pytest.mark.parametrize("n", [0, 4])
def test_n_must_be_between_one_and_the_number_of_scores(n: int) -> None:
    with pytest.raises(ValueError, match="3 scores"):
        expected_best([1.0, 2.0, 3.0], n)


def test_the_kl_is_that_of_the_best_of_many_distinct_responses() -> None:
    """For m equally likely responses ranked by score, the best of n has P(rank ≤ i) = (i/m)ⁿ."""
    responses, n = 4000, 4
    shares = [(i / responses) ** n - ((i - 1) / responses) ** n for i in range(1, responses + 1)]
    exact = sum(p * math.log(p * responses) for p in shares if p > 0)
    assert best_of_n_kl(n) == pytest.approx(exact, abs=2e-3)
    assert best_of_n_kl(1) == 0.0


def test_the_best_of_more_is_never_worse() -> None:
    scores = [random.Random(0).gauss(0, 1) for _ in range(8)]
    found = [expected_best(scores, n) for n in range(1, 9)]
    assert found == sorted(found)
    assert found[-1] == pytest.approx(max(scores))
