"""The clipped losses: worked values on every branch, and their gradients by finite differences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf.ppo.losses import clipped_policy_loss, clipped_value_loss


def ratios(*values: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities whose ratios to the old ones are ``values``."""
    old = torch.full((1, len(values)), -1.5, dtype=torch.float64)
    return old + torch.tensor([values], dtype=torch.float64).log(), old


def test_the_policy_loss_on_every_branch() -> None:
    """ε = 0.2. Clipping takes what was gained beyond the bound (ratio 1.5 with A > 0, 0.5 with A < 0), and never
    forgives what was lost (1.5 with A < 0, 0.5 with A > 0)."""
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


def test_the_value_loss_on_every_branch() -> None:
    """ε = 0.2, V_old = 0, G = 1. V = 0.5 is held at 0.2: ½·0.8² = 0.32 instead of 0.125, the clipped branch.

    V = -0.5: plain ½·1.5² = 1.125 is the larger. V = 0.1 is not held: ½·0.9² = 0.405.
    """
    values = torch.tensor([[0.5, -0.5, 0.1]])
    loss, clipped = clipped_value_loss(values, torch.zeros(1, 3), torch.ones(1, 3), 0.2)
    assert loss[0].tolist() == pytest.approx([0.32, 1.125, 0.405])
    assert clipped[0].tolist() == [True, False, False]


BETWEEN = st.floats(-2, 2)


@given(st.floats(0.3, 2.0), BETWEEN)
def test_the_policy_gradient_is_that_of_finite_differences(ratio: float, advantage: float) -> None:
    if min(abs(ratio - 0.8), abs(ratio - 1.2)) < 1e-3:
        return  # at a kink the two one-sided derivatives differ
    [[logprob]], [[old]] = (part.tolist() for part in ratios(ratio))

    def at(x: float) -> float:
        bounded = min(max(math.exp(x - old), 0.8), 1.2)
        return -min(math.exp(x - old) * advantage, bounded * advantage)

    x = torch.tensor([[logprob]], dtype=torch.float64, requires_grad=True)
    old_logprobs, advantages = (torch.tensor([[value]], dtype=torch.float64) for value in (old, advantage))
    loss = clipped_policy_loss(x, old_logprobs, advantages, 0.2, 0.2).loss
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
