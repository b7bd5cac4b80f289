"""Win rates by judges, and length-matched ones: worked values, recovery, and a second implementation."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from rlhf.evaluation.judges.votes import RIDGE, Compared, by_judge, by_scores, length_matched, logistic, sigmoid
from rlhf.evaluation.statistics.metrics import win_rate


def test_pairs_by_scores_by_hand() -> None:
    [found] = by_scores([[2.0, 1.0]], [[1.0, 3.0]], [[10, 4]], [[5, 6]])
    assert found.preferences.tolist() == [1.0, 0.0, 0.5, 0.0]
    assert found.longer.tolist() == [5.0, 4.0, -1.0, -2.0]


def test_at_equal_lengths_the_length_matched_rate_is_the_win_rate() -> None:
    ours, theirs = [[2.0], [1.0], [1.0], [0.0]], [[1.0], [0.0], [1.0], [1.0]]
    same = [[7]] * 4
    found = length_matched(by_scores(ours, theirs, same, same), 200, 0)
    assert found.mean == pytest.approx(win_rate(ours, theirs, 10, 0).mean, abs=0.002)  # the ridge pulls towards ½


def test_length_matched_win_rate_by_hand() -> None:
    """Longer by 2 wins 3 of 4, shorter by 2 wins 1 of 4: symmetric, so the win rate at equal length is ½."""
    kinds = [(1.0, 2.0)] * 3 + [(0.0, 2.0)] + [(1.0, -2.0)] + [(0.0, -2.0)] * 3
    compared = [Compared(np.array([y]), np.array([d])) for y, d in kinds]
    assert length_matched(compared, 50, 0).mean == pytest.approx(0.5)
    # Shorter by 2 wins 1 of 2: logit(3/4) = θ + φ tanh 1 and logit(1/2) = θ - φ tanh 1, so θ = log(3) / 2.
    kinds = [(1.0, 2.0)] * 300 + [(0.0, 2.0)] * 100 + [(1.0, -2.0)] * 200 + [(0.0, -2.0)] * 200
    compared = [Compared(np.array([y]), np.array([d])) for y, d in kinds]
    assert length_matched(compared, 50, 0).mean == pytest.approx(1 / (1 + math.exp(-math.log(3) / 2)), abs=1e-4)


def test_a_length_bias_is_removed() -> None:
    """Preferences are drawn from θ = 0.3, φ = 2 with one side longer: only the length-matched rate recovers θ."""
    generator = np.random.default_rng(0)
    longer = generator.normal(60, 80, size=4000)
    drawn = sigmoid(0.3 + 2 * np.tanh(longer / longer.std())) > generator.random(4000)
    compared = [Compared(np.array([float(y)]), np.array([d])) for y, d in zip(drawn, longer, strict=True)]
    found = length_matched(compared, 500, 0)
    truth = sigmoid(np.array(0.3))
    assert drawn.mean() > truth + 0.1
    assert found.low < truth < found.high
    assert abs(found.mean - truth) < 0.04


def test_the_regression_agrees_with_a_general_optimizer() -> None:
    generator = np.random.default_rng(1)
    features = np.stack([np.ones(200), generator.normal(size=200)], axis=1)
    targets = (generator.random(200) < sigmoid(features @ np.array([0.5, -1.0]))).astype(float)
    weights = generator.random(200)
    fit = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([fit], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = torch.from_numpy(features) @ fit
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, torch.from_numpy(targets), torch.from_numpy(weights), reduction="sum"
        )
        total = losses + RIDGE / 2 * fit.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    assert logistic(features, targets, weights) == pytest.approx(fit.detach().numpy(), abs=1e-6)


def test_one_newton_step_has_the_interval_of_refitting_each_draw() -> None:
    generator = np.random.default_rng(2)
    longer = generator.normal(0, 50, size=(60, 4))
    preferred = (generator.random((60, 4)) < sigmoid(0.5 + np.tanh(longer / longer.std()))).astype(float)
    compared = [Compared(y, d) for y, d in zip(preferred, longer, strict=True)]
    found = length_matched(compared, 400, 3)
    counts = np.random.default_rng(3).multinomial(60, np.full(60, 1 / 60), 400)
    features = np.stack([np.ones(240), np.tanh(longer.ravel() / longer.std())], axis=1)
    again = [sigmoid(logistic(features, preferred.ravel(), np.repeat(row, 4) / 4)[0]) for row in counts]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(again, [0.025, 0.975])), abs=0.01)


def test_a_side_that_always_wins_has_a_finite_rate() -> None:
    found = length_matched([Compared(np.array([1.0]), np.array([float(i)])) for i in range(20)], 100, 0)
    assert 0.9 < found.mean < 1
    assert 0 <= found.low <= found.high <= 1
    with pytest.raises(ValueError, match="at least one prompt"):
        length_matched([], 10, 0)


@pytest.mark.parametrize("sign", [1, -1])
def test_there_is_no_length_matched_rate_if_lengths_do_not_overlap(sign: int) -> None:
    """40 tokens vs. about 10: the value at equal length would be an extrapolation."""
    longer = sign * np.array([25.0, 30.0, 32.0])
    assert length_matched([Compared(np.array([0.0, 1.0, 0.5]), longer)], 100, 0) is None
    assert length_matched([Compared(np.array([0.0, 1.0, 0.5]), longer - longer.min())], 100, 0) is not None


class Alphabet:
    """Prefers the text that is later in the alphabet; has no verdict on x."""

    def __init__(self) -> None:
        self.asked: list[tuple] = []

    def __call__(self, prompts: Sequence, firsts: Sequence[str], seconds: Sequence[str]) -> list[float | None]:
        self.asked += zip(prompts, firsts, seconds, strict=True)
        return [None if a == "x" else float(a > b) + 0.5 * (a == b) for a, b in zip(firsts, seconds, strict=True)]

    def report(self) -> dict[str, float]:
        return {}


def test_a_judge_is_asked_sample_by_sample() -> None:
    judge = Alphabet()
    found = by_judge(judge, ["p", "q"], [["b", "a"], ["c"]], [["a", "a"], ["d", "e"]])
    assert found == [[1.0, 0.5], [0.0]]
    assert sorted(judge.asked) == [("p", "a", "a"), ("p", "b", "a"), ("q", "c", "d")]


def test_a_limit_takes_first_samples_of_all_prompts_before_second_ones() -> None:
    judge = Alphabet()
    found = by_judge(judge, ["p", "q"], [["b", "a"], ["x", "c"]], [["a", "a"], ["d", "e"]], limit=3)
    assert judge.asked == [("p", "b", "a"), ("q", "x", "d"), ("p", "a", "a")]
    assert found == [[1.0, 0.5], [None, None]]


def test_pairs_without_a_verdict_do_not_count() -> None:
    one = Compared.of([1.0, None, 0.5], [5, 9, 1], [2, 2, 2])
    assert (one.preferences.tolist(), one.longer.tolist()) == ([1.0, 0.5], [3.0, -1.0])
