"""The clipped losses: worked values on every branch, and their gradients by finite differences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf.ppo.losses import clipped_policy_loss, clipped_value_loss, truncated_importance


def ratios(*values: float) -> tuple[Tensor, Tensor]:
    """Return log-probabilities whose ratios to the old ones are ``values``."""
    old = torch.full((1, len(values)), -1.5, dtype=torch.float64)
    return old + torch.tensor([values], dtype=torch.float64).log(), old


def test_the_policy_loss_on_every_branch() -> None:
    """ε = 0.2. Clipping limits gains beyond the bound (ratio 1.5 with A > 0, 0.5 with A < 0) and never reduces losses
    (1.5 with A < 0, 0.5 with A > 0)."""
    logprobs, old = ratios(1.5, 0.5, 1.5, 0.5, 1.1)
    advantages = torch.tensor([[2.0, -2.0, -2.0, 2.0, 2.0]], dtype=torch.float64)
    loss, ratio, clipped = clipped_policy_loss(logprobs, old, advantages, 0.2, 0.2)
    assert loss[0].tolist() == pytest.approx([-2.4, 1.6, 3.0, -1.0, -2.2])
    assert ratio[0].tolist() == pytest.approx([1.5, 0.5, 1.5, 0.5, 1.1])
    assert clipped[0].tolist() == [True, True, False, False, False]


def test_at_ratio_one_the_loss_is_minus_the_advantage_and_nothing_is_clipped() -> None:
    old = -torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    advantages = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    loss, ratio, clipped = clipped_policy_loss(old.clone(), old, advantages, 0.2, 0.2)
    assert torch.equal(loss, -advantages)
    assert (ratio == 1).all()
    assert not clipped.any()


def test_clip_higher_leaves_more_room_above_than_below() -> None:
    """ε = 0.2 below and 0.28 above: with A > 0 1.25 is not clipped, 1.5 is clipped to 1.28; below nothing changes."""
    logprobs, old = ratios(1.25, 1.5, 0.5)
    advantages = torch.tensor([[2.0, 2.0, -2.0]], dtype=torch.float64)
    loss, _, clipped = clipped_policy_loss(logprobs, old, advantages, 0.2, 0.28)
    assert loss[0].tolist() == pytest.approx([-2.5, -2.56, 1.6])
    assert clipped[0].tolist() == [False, True, True]


def test_dual_clip_bounds_the_loss_of_a_token_that_grew_against_its_advantage() -> None:
    """c = 3. The loss of ratio 5 with A = -2 is 6 instead of 10, without a gradient; with A = 2 nothing changes."""
    logprobs, old = ratios(5.0, 2.0, 5.0, 0.5)
    logprobs.requires_grad_()
    advantages = torch.tensor([[-2.0, -2.0, 2.0, -2.0]], dtype=torch.float64)
    loss, _, clipped = clipped_policy_loss(logprobs, old, advantages, 0.2, 0.2, 3.0)
    assert loss[0].tolist() == pytest.approx([6.0, 4.0, -2.4, 1.6])
    assert clipped[0].tolist() == [True, False, True, True]
    loss.sum().backward()
    assert logprobs.grad[0].tolist() == pytest.approx([0.0, 4.0, 0.0, 0.0])


def test_tokens_of_another_engine_count_by_their_ratio_up_to_the_cap() -> None:
    """Probabilities ½, ½, ½ of the learner and ¼, 1, 1/10 of the engine: ratios 2, ½ and 5, and 5 is capped at 3."""
    ours, theirs = torch.tensor([[0.5, 0.5, 0.5]]).log(), torch.tensor([[0.25, 1.0, 0.1]]).log()
    assert truncated_importance(ours, theirs, 3.0)[0].tolist() == pytest.approx([2.0, 0.5, 3.0])
    assert (truncated_importance(ours, ours, 1.0) == 1).all()


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(-2, 2)), min_size=2, max_size=5))
def test_weighted_by_the_ratio_a_mean_over_another_engines_tokens_is_one_over_our_own(
    rows: list[tuple[float, float, float]],
) -> None:
    """Σ_v q_v (p_v / q_v) x_v = Σ_v p_v x_v, enumerated: without the cap the correction is exact."""
    ours, theirs, values = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    p, q = torch.log_softmax(ours, 0), torch.log_softmax(theirs, 0)
    found = (q.exp() * truncated_importance(p, q, math.inf) * values).sum()
    assert found.item() == pytest.approx((p.exp() * values).sum().item(), abs=1e-9)


def test_the_value_loss_on_every_branch() -> None:
    """ε = 0.2, V_old = 0, G = 1. V = 0.5 is held at 0.2: ½·0.8² = 0.32 instead of 0.125, the clipped branch.

    V = -0.5: plain ½·1.5² = 1.125 is the larger. V = 0.1 is not held: ½·0.9² = 0.405.
    """
    values = torch.tensor([[0.5, -0.5, 0.1]])
    loss, clipped = clipped_value_loss(values, torch.zeros(1, 3), torch.ones(1, 3), 0.2)
    assert loss[0].tolist() == pytest.approx([0.32, 1.125, 0.405])
    assert clipped[0].tolist() == [True, False, False]


def test_without_a_clip_the_value_loss_is_half_the_squared_error() -> None:
    loss, clipped = clipped_value_loss(torch.tensor([[0.5, -0.5]]), torch.zeros(1, 2), torch.ones(1, 2), None)
    assert loss[0].tolist() == pytest.approx([0.125, 1.125])
    assert not clipped.any()


BETWEEN = st.floats(-2, 2)


@pytest.mark.parametrize(("low", "high", "dual"), [(0.2, 0.2, None), (0.2, 0.28, None), (0.1, 0.3, 1.5)])
@given(ratio=st.floats(0.3, 2.0), advantage=BETWEEN)
def test_the_policy_gradient_is_that_of_finite_differences(
    low: float, high: float, dual: float | None, ratio: float, advantage: float
) -> None:
    kinks = (1 - low, 1 + high, math.inf if dual is None else dual)
    if min(abs(ratio - kink) for kink in kinks) < 1e-3:
        return  # at a kink the two one-sided derivatives differ
    [[logprob]], [[old]] = (part.tolist() for part in ratios(ratio))

    def at(x: float) -> float:
        bounded = min(max(math.exp(x - old), 1 - low), 1 + high)
        gained = min(math.exp(x - old) * advantage, bounded * advantage)
        return -(max(gained, dual * advantage) if dual is not None and advantage < 0 else gained)

    x = torch.tensor([[logprob]], dtype=torch.float64, requires_grad=True)
    old_logprobs, advantages = (torch.tensor([[value]], dtype=torch.float64) for value in (old, advantage))
    loss = clipped_policy_loss(x, old_logprobs, advantages, low, high, dual).loss
    loss.sum().backward()
    assert loss.item() == pytest.approx(at(logprob), abs=1e-12)
    assert x.grad.item() == pytest.approx((at(logprob + 1e-6) - at(logprob - 1e-6)) / 2e-6, abs=1e-6)


@given(BETWEEN, BETWEEN, BETWEEN)
def test_the_value_gradient_is_that_of_finite_differences(value: float, old: float, target: float) -> None:
    def at(x: float) -> float:
        held = min(max(x, old - 0.2), old + 0.2)
        return 0.5 * max((x - target) ** 2, (held - target) ** 2)

    left, right = (at(value) - at(value - 1e-6)) / 1e-6, (at(value + 1e-6) - at(value)) / 1e-6
    if abs(left - right) > 1e-4:
        return  # at a kink the two one-sided derivatives differ
    x = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
    old_values, returns = (torch.tensor([[number]], dtype=torch.float64) for number in (old, target))
    loss = clipped_value_loss(x, old_values, returns, 0.2).loss
    loss.sum().backward()
    assert loss.item() == pytest.approx(at(value), abs=1e-12)
    assert x.grad.item() == pytest.approx((at(value + 1e-6) - at(value - 1e-6)) / 2e-6, abs=1e-5)
