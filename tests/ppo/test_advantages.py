"""GAE against worked values, its two limits, and the double sum that defines it; the estimators without a critic."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.config import Advantage
from rlhf.ppo.advantages import (
    COMPARED,
    equal_groups,
    estimate,
    gae,
    group_centered,
    group_standardized,
    leave_one_out,
    rewards_to_go,
)

NUMBER = st.floats(-5, 5)


@st.composite
def episodes(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw rewards, values and mask of ragged rows; off the mask the values are not zero."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    width = max(lengths)
    row = st.lists(NUMBER, min_size=width, max_size=width)
    rewards = torch.tensor([draw(row) for _ in lengths], dtype=torch.float64)
    values = torch.tensor([draw(row) for _ in lengths], dtype=torch.float64)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    return rewards * mask, values, mask


def test_worked_values() -> None:
    """γ = 1/2, λ = 1/2; rewards 1, 2; values 4, 8.

    δ₁ = 2 + 0 - 8 = -6 and A₁ = -6, G₁ = 2;  δ₀ = 1 + ½·8 - 4 = 1 and A₀ = 1 - ¼·6 = -½, G₀ = 3½.
    """
    advantages, returns = gae(
        torch.tensor([[1.0, 2.0, 0.0]]),
        torch.tensor([[4.0, 8.0, 77.0]]),
        torch.tensor([[True, True, False]]),
        0.5,
        0.5,
    )
    assert advantages.tolist() == [[-0.5, -6.0, 0.0]]
    assert returns.tolist() == [[3.5, 2.0, 0.0]]


@given(episodes(), st.floats(0, 1), st.floats(0, 1))
def test_it_is_the_double_sum(
    case: tuple[torch.Tensor, torch.Tensor, torch.Tensor], gamma: float, gae_lambda: float
) -> None:
    """Aₜ = Σ_k (γλ)^k δₜ₊ₖ, over the tokens of the response and no later ones."""
    rewards, values, mask = case
    advantages, returns = gae(rewards, values, mask, gamma, gae_lambda)
    for row, length in enumerate(mask.sum(-1).tolist()):
        r, v = rewards[row, :length].tolist(), [*values[row, :length].tolist(), 0.0]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * gae_lambda) ** (u - t) * delta[u] for u in range(t, length))
            assert advantages[row, t].item() == pytest.approx(expected, abs=1e-9)
            assert returns[row, t].item() == pytest.approx(expected + v[t], abs=1e-9)
        assert (advantages[row, length:] == 0).all()
        assert (returns[row, length:] == 0).all()


@given(episodes())
def test_lambda_one_is_the_reward_to_go_less_the_value(
    case: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    rewards, values, mask = case
    advantages, returns = gae(rewards, values, mask, 1.0, 1.0)
    for row, length in enumerate(mask.sum(-1).tolist()):
        for t in range(length):
            to_go = sum(rewards[row, t:length].tolist())
            assert returns[row, t].item() == pytest.approx(to_go, abs=1e-9)
            assert advantages[row, t].item() == pytest.approx(to_go - values[row, t].item(), abs=1e-9)


@given(episodes(), st.floats(0, 1))
def test_lambda_zero_is_the_one_step_error(case: tuple[torch.Tensor, torch.Tensor, torch.Tensor], gamma: float) -> None:
    rewards, values, mask = case
    advantages, _ = gae(rewards, values, mask, gamma, 0.0)
    for row, length in enumerate(mask.sum(-1).tolist()):
        for t in range(length):
            following = values[row, t + 1].item() if t + 1 < length else 0.0
            error = rewards[row, t].item() + gamma * following - values[row, t].item()
            assert advantages[row, t].item() == pytest.approx(error, abs=1e-9)


@given(episodes(), st.integers(1, 3))
def test_more_padding_changes_nothing(case: tuple[torch.Tensor, torch.Tensor, torch.Tensor], columns: int) -> None:
    rewards, values, mask = case
    plain = gae(rewards, values, mask, 0.9, 0.8)
    more = gae(
        torch.nn.functional.pad(rewards, (0, columns)),
        torch.nn.functional.pad(values, (0, columns), value=3.0),
        torch.nn.functional.pad(mask, (0, columns), value=False),
        0.9,
        0.8,
    )
    for expected, found in zip(plain, more, strict=True):
        assert torch.equal(found[:, : mask.shape[1]], expected)
        assert (found[:, mask.shape[1] :] == 0).all()


SUMS = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0], dtype=torch.float64)  # two prompts, three responses each


def test_worked_values_of_groups() -> None:
    """Means 3 and 5; others' means 4, 3½, 1½ and 5; the unbiased deviation of 1, 2, 6 is √7."""
    assert leave_one_out(SUMS, 3).tolist() == pytest.approx([-3, -1.5, 4.5, 0, 0, 0])
    assert group_centered(SUMS, 3).tolist() == [-2, -1, 3, 0, 0, 0]
    expected = [x / (7**0.5 + 1e-4) for x in (-2, -1, 3)]
    assert group_standardized(SUMS, 3).tolist() == pytest.approx([*expected, 0, 0, 0])
    assert equal_groups(SUMS, 3).tolist() == [False, True]


def test_rewards_to_go_are_discounted_sums() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    found = rewards_to_go(torch.tensor([[1.0, 2.0, 4.0], [3.0, 0.0, 0.0]]), mask, 0.5)
    assert found.tolist() == [[3, 4, 4], [3, 0, 0]]


@given(st.integers(2, 5), st.lists(NUMBER, min_size=20, max_size=20), NUMBER)
def test_comparisons_ignore_a_constant_and_sum_to_zero(samples: int, scores: list[float], constant: float) -> None:
    sums = torch.tensor(scores[: 3 * samples], dtype=torch.float64)
    for estimator in COMPARED.values():
        found = estimator(sums, samples)
        assert found.view(3, samples).sum(1).tolist() == pytest.approx([0] * 3, abs=1e-9)
        assert estimator(sums + constant, samples).tolist() == pytest.approx(found.tolist(), abs=1e-6)
    others = [
        [x for j, x in enumerate(row) if j != i] for row in sums.view(3, samples).tolist() for i in range(samples)
    ]
    expected = [x - sum(rest) / len(rest) for x, rest in zip(sums.tolist(), others, strict=True)]
    assert leave_one_out(sums, samples).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", [kind.value for kind in Advantage])
def test_every_estimator_is_zero_off_the_mask_and_credits_the_score(kind: str) -> None:
    mask = torch.tensor([[True, True, True], [True, False, False], [True, True, False], [True, True, False]])
    rewards = torch.tensor([[-0.1, -0.2, 3.0], [1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [0.0, -1.0, 0.0]])
    advantages, returns = estimate(kind, rewards, torch.zeros(4, 3), mask, 2, 1.0, 1.0)
    assert not advantages[~mask].any()
    assert not returns[~mask].any()
    assert advantages[0, 2] > 0 > advantages[3, 1]
    whole = Advantage(kind).compares
    assert (kind in COMPARED) == whole
    assert bool((advantages[0] == advantages[0, 0]).all()) == whole
