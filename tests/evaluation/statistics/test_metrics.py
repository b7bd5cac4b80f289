"""Metrics by hand and by their invariants, and intervals by their coverage."""

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
    group_means,
    normalized,
    perplexity,
    resampled,
    win_rate,
    wins,
)

SCORES = st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=4), min_size=1, max_size=6)


def test_an_estimate_weighs_prompts_equally() -> None:
    assert estimate([[1.0, 1.0, 1.0, 1.0], [0.0]], 10, 0).mean == 0.5


@pytest.mark.parametrize("size", [1, 3, 8, 64, 1000])
def test_the_means_of_groups_are_those_of_each_group_to_the_last_bit(size: int) -> None:
    groups = np.random.default_rng(size).normal(size=(7, size)).tolist()
    assert group_means(groups).tolist() == [float(np.mean(group)) for group in groups]
    assert group_means([*groups, [1.0] * (size + 1)]).tolist() == [*(float(np.mean(group)) for group in groups), 1.0]


@pytest.mark.parametrize("kept", [10, 10_000])
def test_all_metrics_draw_the_same_prompts(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    monkeypatch.setattr("rlhf.evaluation.statistics.metrics.KEPT", kept)
    first, again = resampled(9, 20, 5), resampled(9, 20, 5)
    assert (again is first) == (kept > 180)
    assert (again == np.random.default_rng(5).integers(9, size=(20, 9))).all()
    assert not (resampled(9, 20, 6) == first).all()


def test_a_share_weighs_numbers_equally() -> None:
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
    """If samples were drawn independently, ten prompts with eight equal samples would count as eighty prompts."""
    means = np.linspace(0, 1, 10)
    together = estimate([[x] * 8 for x in means], 2000, 0)
    independent = estimate([[x] for x in np.repeat(means, 8)], 2000, 0)
    assert together == estimate([[x] for x in means], 2000, 0)
    assert together.high - together.low > 2 * (independent.high - independent.low)


def test_the_coverage_of_an_interval() -> None:
    """400 sets of 60 prompts with 3 correlated samples each. Standard error of the coverage: 1.1 %."""
    generator = np.random.default_rng(0)
    held = 0
    for trial in range(400):
        of_prompt = generator.exponential(1.0, size=(60, 1))
        found = estimate((of_prompt + generator.normal(0, 0.5, size=(60, 3))).tolist(), 400, trial)
        held += found.low <= 1.0 <= found.high
    assert 0.90 <= held / 400 <= 0.98


def test_the_seed_changes_only_the_interval() -> None:
    groups = [[float(x)] for x in range(20)]
    assert estimate(groups, 100, 1) == estimate(groups, 100, 1)
    assert estimate(groups, 100, 1) != estimate(groups, 100, 2)
    assert estimate(groups, 100, 1).mean == estimate(groups, 100, 2).mean


@pytest.mark.parametrize("groups", [[], [[]], [[1.0], []]])
def test_an_estimate_needs_numbers(groups: list) -> None:
    with pytest.raises(ValueError, match="at least one"):
        estimate(groups, 10, 0)


def test_an_estimate_as_text() -> None:
    assert str(Estimate(0.5, 0.25, 0.75)) == "0.5 [0.25, 0.75]"


def test_each_sample_is_compared_with_each_sample() -> None:
    assert wins([1, 3], [2, 3]) == [0.0, 0.0, 1.0, 0.5]
    # Prompt 1: 1.5 of 4; prompt 2: won.
    assert win_rate([[1, 3], [5]], [[2, 3], [4]], 10, 0).mean == (1.5 / 4 + 1) / 2


@given(SCORES)
def test_the_win_rate_against_itself_is_one_half(scores: list[list[int]]) -> None:
    assert win_rate(scores, scores, 10, 0).mean == pytest.approx(0.5)


@given(SCORES, st.randoms())
def test_the_win_rates_of_both_sides_add_up_to_one(scores: list[list[int]], random) -> None:
    others = [[random.randint(-3, 3) for _ in group] for group in scores]
    ours, theirs = win_rate(scores, others, 50, 0), win_rate(others, scores, 50, 0)
    assert ours.mean + theirs.mean == pytest.approx(1)
    assert ours.low + theirs.high == pytest.approx(1)


def test_a_win_rate_does_not_depend_on_the_scale_of_scores() -> None:
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


def test_normalized_texts_have_no_case_or_punctuation() -> None:
    assert normalized("  The Capital: LIMA!\n") == "the capital lima"
    assert normalized("Þingvellir, São Paulo") == "þingvellir são paulo"
    assert normalized("?!") == ""


def test_agreement() -> None:
    assert agreement(["Lima.", "lima", "Quito", "LIMA"]) == 3 / 6
    assert agreement(["a"]) == 1.0
    assert agreement_between(["Lima.", "Quito"], ["lima", "Lima", "Bogota"]) == 2 / 6


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=6))
def test_agreement_is_the_share_of_equal_pairs(texts: list[str]) -> None:
    """Among the n² ordered pairs, the n pairs of a text with itself agree; the others are counted twice."""
    n = len(texts)
    all_pairs = sum(a == b for a, b in product(texts, texts))
    assert agreement(texts) == pytest.approx((all_pairs - n) / (n * (n - 1)))
    assert agreement_between(texts, texts) == pytest.approx(all_pairs / n**2)


def test_the_perplexity_of_a_uniform_guess_among_k_is_k() -> None:
    assert perplexity(nats=10 * math.log(50), tokens=10) == pytest.approx(50)


def test_bits_per_byte_of_fair_coins() -> None:
    assert bits_per_byte(nats=16 * math.log(2), size=8) == pytest.approx(2)
