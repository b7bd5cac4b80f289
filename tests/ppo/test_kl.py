"""Estimators of the KL against its exact value, and the reward that contains it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.ppo.kl import k1, k2, k3, shape_rewards

REAL = st.floats(-3, 3)


def categorical(numbers: list[float]) -> torch.Tensor:
    return torch.log_softmax(torch.tensor(numbers, dtype=torch.float64), dim=0)


def test_estimators_by_hand() -> None:
    """π = 1/2 and π_ref = 1/4: the log-ratio is log 2, and π_ref/π is 1/2."""
    logp, ref = torch.tensor(0.5).log(), torch.tensor(0.25).log()
    assert k1(logp, ref).item() == pytest.approx(math.log(2))
    assert k2(logp, ref).item() == pytest.approx(math.log(2) ** 2 / 2)
    assert k3(logp, ref).item() == pytest.approx(0.5 - 1 + math.log(2))


@given(st.lists(st.tuples(REAL, REAL), min_size=2, max_size=6))
def test_k1_and_k3_have_the_exact_kl_as_their_mean(numbers: list[tuple[float, float]]) -> None:
    """The mean under π is a finite sum over the vocabulary, so that nothing has to be sampled."""
    logp, ref = (categorical(list(column)) for column in zip(*numbers, strict=True))
    p = logp.exp()
    exact = sum(p[v].item() * (logp[v] - ref[v]).item() for v in range(len(p)))
    assert (p * k1(logp, ref)).sum().item() == pytest.approx(exact, abs=1e-9)
    assert (p * k3(logp, ref)).sum().item() == pytest.approx(exact, abs=1e-9)
    assert exact >= -1e-12
    assert (k2(logp, ref) >= 0).all()
    assert (k3(logp, ref) >= -1e-12).all()


def test_k2_is_right_to_second_order_and_biased_beyond() -> None:
    base, direction = torch.tensor([0.3, -0.2, 0.9]), torch.tensor([1.0, -1.0, 0.5])
    errors = []
    for step in (0.2, 0.1, 0.05):
        logp, ref = categorical((base + step * direction).tolist()), categorical(base.tolist())
        exact = (logp.exp() * (logp - ref)).sum()
        errors.append(abs(((logp.exp() * k2(logp, ref)).sum() - exact).item()))
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.3)  # halving the step divides a cubic error by eight
    assert errors[1] / errors[2] == pytest.approx(8, rel=0.3)


def test_rewards_by_hand() -> None:
    """β = 1/2. Row 0 has two tokens with log-ratios 1 and -2 and the score 10; row 1 one token, 4, and the score -1."""
    logprobs = torch.tensor([[-1.0, -3.0, 9.0], [-1.0, 9.0, 9.0]])
    ref = torch.tensor([[-2.0, -1.0, 7.0], [-5.0, 7.0, 7.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    shaped = shape_rewards(torch.tensor([10.0, -1.0]), logprobs, ref, mask, 0.5)
    assert shaped.penalties.tolist() == [[-0.5, 1.0, 0.0], [-2.0, 0.0, 0.0]]
    assert shaped.rewards.tolist() == [[-0.5, 11.0, 0.0], [-3.0, 0.0, 0.0]]


@given(st.lists(st.tuples(st.integers(1, 5), REAL), min_size=1, max_size=5))
def test_where_policy_and_reference_agree_the_rewards_are_the_score_at_the_last_token(
    rows: list[tuple[int, float]],
) -> None:
    lengths, scores = (torch.tensor(column) for column in zip(*rows, strict=True))
    mask = torch.arange(7) < lengths[:, None]
    logprobs = -torch.rand(len(rows), 7, generator=torch.Generator().manual_seed(0))
    shaped = shape_rewards(scores, logprobs, logprobs.clone(), mask, 0.05)
    assert (shaped.penalties == 0).all()
    assert torch.equal(shaped.rewards.sum(-1), scores)
    for row, length in enumerate(lengths):
        assert shaped.rewards[row, length - 1] == scores[row]


def test_the_sum_of_the_rewards_is_the_score_minus_the_kl() -> None:
    generator = torch.Generator().manual_seed(0)
    logprobs, ref = -torch.rand(4, 6, generator=generator), -torch.rand(4, 6, generator=generator)
    mask = torch.arange(6) < torch.tensor([6, 1, 3, 4])[:, None]
    scores = torch.randn(4, generator=generator)
    shaped = shape_rewards(scores, logprobs, ref, mask, 0.3)
    log_ratios = [sum((logprobs - ref)[row, :length].tolist()) for row, length in enumerate((6, 1, 3, 4))]
    expected = [score - 0.3 * kl for score, kl in zip(scores.tolist(), log_ratios, strict=True)]
    assert shaped.rewards.sum(-1).tolist() == pytest.approx(expected, abs=1e-5)
