"""Cohen's kappa by hand, and that of a judge as the kappa of the table with each pair in both orders."""

import random

import pytest

from rlhf.evaluation.statistics.kappa import agreement, kappa


def test_kappa_by_hand() -> None:
    """Cohen's example in form: 20 and 15 of 50 on the diagonal, 5 and 10 beside it; p_o = 0.7, p_e = 0.5."""
    one = ["yes"] * 25 + ["no"] * 25
    other = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert kappa(one, other) == pytest.approx(0.4)
    assert kappa(["a"] * 3, ["a"] * 3) == 1.0


def test_the_agreement_of_a_judge_is_the_kappa_of_both_orders() -> None:
    draw = random.Random(0)
    preferred = [draw.choice([0.0, 0.25, 0.5, 1.0, 1.0, None]) for _ in range(60)]
    judged = [(value > 0.5) - (value < 0.5) for value in preferred if value is not None]
    expected = kappa([1] * len(judged) + [-1] * len(judged), [*judged, *(-verdict for verdict in judged)])
    found = agreement(preferred, range(60), 500, 0)
    assert found.kappa.mean == pytest.approx(expected)
    assert found.kappa.low < expected < found.kappa.high
    assert found.unusable == preferred.count(None)
    assert agreement([None], [1], 10, 0) is None


def test_the_interval_covers_the_truth_and_repeated_prompts_widen_it() -> None:
    """Verdicts are right in 3 of 4 pairs, so kappa is 0.5; twenty pairs of one prompt count as one."""
    draw, covered, draws = random.Random(1), 0, 100
    for number in range(draws):
        found = agreement([float(draw.random() < 0.75) for _ in range(150)], range(150), 200, number)
        covered += found.kappa.low <= 0.5 <= found.kappa.high
    assert 0.88 <= covered / draws <= 1
    values = [float(draw.random() < 0.75) for _ in range(10)]
    repeated = [(value, number) for number, value in enumerate(values) for _ in range(20)]
    several, single = agreement(*zip(*repeated, strict=True), 500, 0), agreement(values, range(10), 500, 0)
    assert several.kappa == pytest.approx(single.kappa)
