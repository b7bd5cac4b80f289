import itertools
import math
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, tensor
from torch.nn.functional import logsigmoid

from rlhf.preference.losses import batch_sum, bradley_terry, centering, orpo, plackett_luce, simpo, smoothed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that they are experimental
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

numbers = st.floats(-20, 20)


def ranking(*scores: float) -> tuple[Tensor, Tensor]:
    return tensor([scores], dtype=torch.float64), torch.ones(1, len(scores), dtype=torch.bool)


def test_bradley_terry_by_hand() -> None:
    """σ(ln 3) = 3/4, so the loss of a lead of ln 3 is -ln 3/4; with a margin of ln 3 it is -ln 1/2."""
    chosen, rejected = tensor([math.log(3.0)]), tensor([0.0])
    assert bradley_terry(chosen, rejected).item() == pytest.approx(-math.log(0.75))
    assert bradley_terry(chosen, rejected, tensor([math.log(3.0)])).item() == pytest.approx(math.log(2.0))
    assert bradley_terry(rejected, chosen).item() == pytest.approx(-math.log(0.25))
    flipped = bradley_terry(chosen, rejected, label_smoothing=0.1).item()
    assert flipped == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25))


def test_the_sum_of_a_batch_by_hand() -> None:
    """Two pairs: B · mean² = 2 · (3/4)². Opposite scores in different pairs are not penalized, unlike by centering."""
    assert batch_sum(tensor([2.0, 1.0, -1.0, 1.0])).item() == pytest.approx(2 * (3 / 4) ** 2)
    assert batch_sum(tensor([2.0, -1.0, 1.0, -2.0])) == 0
    assert centering(*ranking(2.0, 1.0)).item() == pytest.approx(9.0)


@given(numbers, numbers, numbers)
def test_without_options_it_is_trls_loss(chosen: float, rejected: float, margin: float) -> None:
    c, r, m = (tensor([value], dtype=torch.float64) for value in (chosen, rejected, margin))
    assert bradley_terry(c, r, m).item() == pytest.approx(-logsigmoid(c - r - m).item())


@pytest.mark.parametrize("smoothing", [0.01, 0.1, 0.3])
def test_a_smoothed_loss_is_smallest_at_the_rate_of_right_labels(smoothing: float) -> None:
    difference = torch.linspace(-8, 8, 16001, dtype=torch.float64)
    losses = bradley_terry(difference, torch.zeros_like(difference), label_smoothing=smoothing)
    best = difference[losses.argmin()].item()
    assert best == pytest.approx(math.log((1 - smoothing) / smoothing), abs=1e-3)


def test_plackett_luce_by_hand() -> None:
    """Strengths 3, 2, 1: the best is drawn from six with 3/6, then the second from three with 2/3."""
    scores, mask = ranking(math.log(3), math.log(2), 0.0)
    assert plackett_luce(scores, tensor([2]), mask).item() == pytest.approx(-math.log(1 / 2) - math.log(2 / 3))
    assert plackett_luce(scores, tensor([1]), mask).item() == pytest.approx(-math.log(1 / 2))


@given(numbers, numbers)
def test_plackett_luce_of_two_is_bradley_terry(best: float, other: float) -> None:
    scores, mask = ranking(best, other)
    expected = bradley_terry(scores[:, 0], scores[:, 1])
    assert plackett_luce(scores, tensor([1]), mask).item() == pytest.approx(expected.item(), abs=1e-12)


@given(st.lists(numbers, min_size=2, max_size=5))
def test_the_chances_of_all_rankings_add_up_to_one(scores: list[float]) -> None:
    chances = []
    for order in itertools.permutations(scores):
        values, mask = ranking(*order)
        chances.append(math.exp(-plackett_luce(values, tensor([len(scores) - 1]), mask).item()))
    assert sum(chances) == pytest.approx(1.0)


@given(st.lists(numbers, min_size=3, max_size=5))
def test_the_order_after_the_best_does_not_matter(scores: list[float]) -> None:
    """The likelihood of "best of K" is the sum over all rankings that begin with it."""
    values, mask = ranking(*scores)
    best = plackett_luce(values, tensor([1]), mask).item()
    turned, _ = ranking(scores[0], *scores[:0:-1])
    assert plackett_luce(turned, tensor([1]), mask).item() == pytest.approx(best)
    chances = []
    for order in itertools.permutations(scores[1:]):
        whole, mask = ranking(scores[0], *order)
        chances.append(math.exp(-plackett_luce(whole, tensor([len(scores) - 1]), mask).item()))
    assert sum(chances) == pytest.approx(math.exp(-best))


def test_padding_changes_neither_loss_nor_gradient() -> None:
    scores = tensor([[0.3, -0.2, 1.0]], dtype=torch.float64, requires_grad=True)
    alone = plackett_luce(scores, tensor([2]), torch.ones(1, 3, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(alone.sum(), scores)
    wide = tensor([[0.3, -0.2, 1.0, 7.0, -9.0]], dtype=torch.float64, requires_grad=True)
    padded = plackett_luce(wide, tensor([2]), tensor([[True, True, True, False, False]]))
    (wide_gradient,) = torch.autograd.grad(padded.sum(), wide)
    assert padded.item() == pytest.approx(alone.item())
    assert torch.allclose(wide_gradient, torch.cat([gradient, torch.zeros(1, 2, dtype=torch.float64)], -1))


def test_centering_of_two_is_the_squared_sum() -> None:
    scores = tensor([[1.0, 0.5, 9.0], [2.0, -2.0, 9.0], [1.0, 2.0, 3.0]])
    mask = tensor([[True, True, False], [True, True, False], [True, True, True]])
    assert centering(scores, mask).tolist() == [2.25, 0.0, 16.0]


@given(st.floats(-20, 20), st.sampled_from([0.01, 0.1, 0.4]), st.floats(0.1, 3))
def test_dpo_is_smoothed_by_two_of_trls_losses(x: float, smoothing: float, weight: float) -> None:
    """The weighted sum of ``sigmoid`` and ``robust`` of trl 1.16 is Mitchell's equation 3."""
    log_p, log_q = (logsigmoid(tensor(value, dtype=torch.float64)).item() for value in (x, -x))
    robust = (-(1 - smoothing) * log_p + smoothing * log_q) / (1 - 2 * smoothing)
    terms = {"sigmoid": -log_p, "robust": robust, "sft": 7.0}
    losses, weights = smoothed(["sigmoid", "sft"], [weight, 2.0], smoothing)
    assert losses == ["sigmoid", "sft", "robust"]
    made = sum(one * terms[name] for name, one in zip(losses, weights, strict=True)) - 14.0
    assert made == pytest.approx(-weight * ((1 - smoothing) * log_p + smoothing * log_q), abs=1e-9)


def test_without_smoothing_dpo_is_unchanged() -> None:
    assert smoothed(["sigmoid", "ipo"], None, 0.0) == (["sigmoid", "ipo"], None)
    assert smoothed(["aot"], [2.0], 0.1) == (["aot"], [2.0])


def trl(**settings: Any) -> Any:
    """Return the parts of a trainer of TRL that its losses read."""
    return SimpleNamespace(accelerator=SimpleNamespace(device="cpu"), alpha=0.0, label_smoothing=0.0, **settings)


means = st.floats(-12, -0.01)


@given(means, means, st.floats(0.1, 5), st.floats(0, 2))
def test_simpo_is_that_of_trl(chosen: float, rejected: float, beta: float, ratio: float) -> None:
    c, r = (tensor([value], dtype=torch.float64) for value in (chosen, rejected))
    theirs = CPOTrainer.cpo_loss(trl(loss_type="simpo", beta=beta, simpo_gamma=beta * ratio), c, r)[0]
    assert simpo(c, r, beta, ratio).item() == pytest.approx(theirs.item(), abs=1e-9)


def test_simpo_by_hand() -> None:
    """Rewards of 2 and 2 - ln 3 without a margin: σ(ln 3) = 3/4; a margin of ln 3 leaves 1/2."""
    chosen, rejected = tensor([-1.0]), tensor([-1.0 - math.log(3.0) / 2])
    assert simpo(chosen, rejected, 2.0, 0.0).item() == pytest.approx(-math.log(0.75))
    assert simpo(chosen, rejected, 2.0, math.log(3.0) / 2).item() == pytest.approx(math.log(2.0))


@given(means, means, st.floats(0.01, 2))
def test_orpo_is_that_of_trl(chosen: float, rejected: float, weight: float) -> None:
    """TRL's trainer subtracts its odds ratio from the SFT loss."""
    c, r = (tensor([value], dtype=torch.float32) for value in (chosen, rejected))
    theirs = -c - ORPOTrainer.odds_ratio_loss(trl(beta=weight), c, r)[0]
    assert orpo(c, r, weight).item() == pytest.approx(theirs.item(), rel=1e-4, abs=1e-5)


def test_orpo_by_hand() -> None:
    """Odds of 3 and 1 for probabilities of 3/4 and 1/2: σ(ln 3) = 3/4."""
    chosen, rejected = tensor([math.log(0.75)]), tensor([math.log(0.5)])
    assert orpo(chosen, rejected, 0.1).item() == pytest.approx(-1.1 * math.log(0.75))


def test_orpo_of_a_certain_response_has_a_gradient() -> None:
    chosen, rejected = tensor([0.0, -1e-12], requires_grad=True), tensor([-0.5, 0.0], requires_grad=True)
    orpo(chosen, rejected, 0.1).sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.isfinite().all()
    assert rejected.grad.isfinite().all()
