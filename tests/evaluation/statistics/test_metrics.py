"""Metrics by hand, by their invariants, and intervals by how often they hold what they promise."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.evaluation.statistics.metrics import (
    Estimate,
    agreement,
    agreement_between,
    bits_per_byte,
    distinct,
    estimate,
    estimate_share,
    normalized,
    perplexity,
    win_rate,
    wins,
)

SCORES = st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=4), min_size=1, max_size=6)


def test_an_estimate_weighs_prompts_equally_whatever_their_samples() -> None:
    assert estimate([[1.0, 1.0, 1.0, 1.0], [0.0]], 10, 0).mean == 0.5


def test_a_share_weighs_numbers_equally_whatever_their_prompt() -> None:
    assert estimate_share([[1.0, 1.0, 1.0, 1.0], [0.0]], 10, 0).mean == 0.8
    assert estimate_share([[1.0], [0.0]], 4000, 0) == Estimate(0.5, 0.0, 1.0)
    same = [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
    assert estimate_share(same, 200, 3) == pytest.approx(estimate(same, 200, 3))
    with pytest.raises(ValueError, match="at least one number"):
        estimate_share([[], []], 10, 0)


def test_all_resamples_of_two_prompts_give_the_bounds() -> None:
    """Two prompts with means 0 and 1: a resample has mean 0, ½ or 1 with probability ¼, ½, ¼."""
    assert estimate([[0.0], [1.0]], 4000, 0, level=0.95) == Estimate(0.5, 0.0, 1.0)
    assert estimate([[0.0], [1.0]], 4000, 0, level=0.4) == Estimate(0.5, 0.5, 0.5)


def test_samples_of_one_prompt_are_drawn_together() -> None:
    """Were they drawn one by one, ten prompts of eight equal samples would pass for eighty of them."""
    means = np.linspace(0, 1, 10)
    together = estimate([[x] * 8 for x in means], 2000, 0)
    alone = estimate([[x] for x in np.repeat(means, 8)], 2000, 0)
    assert together == estimate([[x] for x in means], 2000, 0)
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    """400 sets of 60 prompts with 3 correlated samples each. Binomial noise of the share: 1.1 % (standard error)."""
    generator = np.random.default_rng(0)
    held = 0
    for trial in range(400):
        of_prompt = generator.exponential(1.0, size=(60, 1))
        found = estimate((of_prompt + generator.normal(0, 0.5, size=(60, 3))).tolist(), 400, trial)
        held += found.low <= 1.0 <= found.high
    assert 0.90 <= held / 400 <= 0.98


def test_the_seed_decides_the_interval_alone() -> None:
    groups = [[float(x)] for x in range(20)]
    assert estimate(groups, 100, 1) == estimate(groups, 100, 1)
    assert estimate(groups, 100, 1) != estimate(groups, 100, 2)
    assert estimate(groups, 100, 1).mean == estimate(groups, 100, 2).mean


@pytest.mark.parametrize("groups", [[], [[]], [[1.0], []]])
def test_nothing_cannot_be_estimated(groups: list) -> None:
    with pytest.raises(ValueError, match="at least one"):
        estimate(groups, 10, 0)


def test_an_estimate_in_words() -> None:
    assert str(Estimate(0.5, 0.25, 0.75)) == "0.5 [0.25, 0.75]"


def test_every_sample_meets_every_sample() -> None:
    assert wins([1, 3], [2, 3]) == [0.0, 0.0, 1.0, 0.5]
    # Prompt 1: 1.5 of 4; prompt 2: won.
    assert win_rate([[1, 3], [5]], [[2, 3], [4]], 10, 0).mean == (1.5 / 4 + 1) / 2


@given(SCORES)
def test_nobody_beats_himself(scores: list[list[int]]) -> None:
    assert win_rate(scores, scores, 10, 0).mean == pytest.approx(0.5)


@given(SCORES, st.randoms())
def test_what_one_side_wins_the_other_loses(scores: list[list[int]], random) -> None:
    others = [[random.randint(-3, 3) for _ in group] for group in scores]
    ours, theirs = win_rate(scores, others, 50, 0), win_rate(others, scores, 50, 0)
    assert ours.mean + theirs.mean == pytest.approx(1)
    assert ours.low + theirs.high == pytest.approx(1)


def test_a_win_rate_does_not_see_the_scale_of_scores() -> None:
    ours, theirs = [[0.1, 0.9], [0.5, 0.2]], [[0.3, 0.4], [0.5, 0.1]]
    warped = ([[math.exp(10 * x) for x in group] for group in side] for side in (ours, theirs))
    assert win_rate(ours, theirs, 50, 0) == win_rate(*warped, 50, 0)


def test_the_sides_of_a_win_rate_have_the_same_prompts() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        win_rate([[1.0]], [[1.0], [2.0]], 10, 0)


@pytest.mark.parametrize(
    ("texts", "n", "expected"),
    [
        (["a a b", "a b"], 1, 2 / 5),
        (["a a b", "a b"], 2, 2 / 3),  # aa, ab; ab. No pair spans two texts
        (["a", "b"], 2, 0.0),
        ([""], 1, 0.0),
        ([], 1, 0.0),
    ],
)
def test_distinct(texts: list[str], n: int, expected: float) -> None:
    assert distinct(texts, n) == pytest.approx(expected)


def test_answers_agree_whatever_their_case_and_marks() -> None:
    assert normalized("  The Capital: LIMA!\n") == "the capital lima"
    assert normalized("Þingvellir, São Paulo") == "þingvellir são paulo"
    assert normalized("?!") == ""


def test_agreement() -> None:
    assert agreement(["Lima.", "lima", "Quito", "LIMA"]) == 3 / 6
    assert agreement(["a"]) == 1.0
    assert agreement_between(["Lima.", "Quito"], ["lima", "Lima", "Bogota"]) == 2 / 6


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=6))
def test_agreement_is_the_share_of_equal_pairs(texts: list[str]) -> None:
    """Of the n² ordered pairs the n with itself agree; the others are counted twice."""
    n = len(texts)
    all_pairs = sum(a == b for a, b in product(texts, texts))
    assert agreement(texts) == pytest.approx((all_pairs - n) / (n * (n - 1)))
    assert agreement_between(texts, texts) == pytest.approx(all_pairs / n**2)


def test_perplexity_of_a_guess_among_k_is_k() -> None:
    assert perplexity(nats=10 * math.log(50), tokens=10) == pytest.approx(50)


def test_bits_per_byte_of_fair_coins() -> None:
    assert bits_per_byte(nats=16 * math.log(2), size=8) == pytest.approx(2)
