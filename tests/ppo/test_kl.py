"""Estimators of the KL against its exact value, and the reward that contains it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.ppo.kl import ESTIMATORS, adapted, k1, k2, k3, kl_loss, shape_rewards

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
    """The mean under π is a finite sum over the vocabulary, without sampling."""
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


def test_with_the_penalty_in_the_loss_rewards_are_the_score() -> None:
    logprobs, ref = torch.tensor([[-1.0, -3.0]]), torch.tensor([[-2.0, -1.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    shaped = shape_rewards(torch.tensor([10.0]), logprobs, ref, mask, 0.5, k2, in_reward=False)
    assert shaped.rewards.tolist() == [[0.0, 10.0]]
    assert shaped.penalties.tolist() == [[-0.25, -1.0]]  # -½ · ½ · 1² and -½ · ½ · 2²


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_the_penalty_is_that_of_the_estimator(name: str) -> None:
    logprobs, ref = torch.tensor([[-1.0, -3.0]]), torch.tensor([[-2.0, -1.0]])
    shaped = shape_rewards(torch.zeros(1), logprobs, ref, torch.ones(1, 2, dtype=torch.bool), 0.5, ESTIMATORS[name])
    expected = {"k1": [1, -2], "k2": [0.5, 2], "k3": [math.exp(-1) - 1 + 1, math.exp(2) - 1 - 2]}[name]
    assert shaped.rewards[0].tolist() == pytest.approx([-0.5 * value for value in expected])


def exact_kl(logp: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (logp.exp() * (logp - other)).sum()


@given(st.lists(st.tuples(REAL, REAL, REAL), min_size=2, max_size=5))
def test_the_gradient_of_the_loss_is_that_of_the_kl_the_other_kl_or_nothing(
    numbers: list[tuple[float, float, float]],
) -> None:
    """The mean under π_old is a finite sum: k2 has the gradient of KL(π ‖ π_ref), k3 that of KL(π_ref ‖ π), k1 none.

    The policy has moved from the one that drew the tokens, as it has from the second minibatch on.
    """
    logits, old, ref = (torch.tensor(column, dtype=torch.float64) for column in zip(*numbers, strict=True))
    logits.requires_grad_()
    logp, old, ref = (torch.log_softmax(x, dim=0) for x in (logits, old, ref))

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss, logits, retain_graph=True)[0]

    found = {name: gradient((old.exp() * kl_loss(logp, old, ref, k)).sum()) for name, k in ESTIMATORS.items()}
    assert torch.allclose(found["k1"], torch.zeros_like(logits), atol=1e-9)
    assert torch.allclose(found["k2"], gradient(exact_kl(logp, ref)), atol=1e-8)
    assert torch.allclose(found["k3"], gradient(exact_kl(ref, logp)), atol=1e-8)


def test_in_the_reward_k1_pulls_and_near_the_reference_k2_and_k3_hardly_do() -> None:
    """The policy gradient of a penalty k is E_π[k ∇ log π] with k as a constant: again a finite sum.

    With k1 it is that of the KL, which halves with the distance. With k3 it is that of the KL minus that of the reverse
    KL, and, like that of k2, of second order: a quarter at half the distance.
    """
    base, direction = torch.tensor([0.3, -0.2, 0.9]), torch.tensor([1.0, -1.0, 0.5])
    sizes: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    for step in (0.02, 0.01):
        logits = (base + step * direction).double().requires_grad_()
        logp, ref = torch.log_softmax(logits, dim=0), torch.log_softmax(base.double(), dim=0)
        kl, other = (
            torch.autograd.grad(value, logits, retain_graph=True)[0]
            for value in (exact_kl(logp, ref), exact_kl(ref, logp))
        )
        found = {}
        for name, k in ESTIMATORS.items():
            penalty = k(logp, ref).detach()
            found[name] = torch.autograd.grad((logp.exp() * penalty).sum(), logits, retain_graph=True)[0]
            sizes[name].append(found[name].norm().item())
        assert torch.allclose(found["k1"], kl, atol=1e-12)
        assert torch.allclose(found["k3"], kl - other, atol=1e-12)
    assert sizes["k1"][0] / sizes["k1"][1] == pytest.approx(2, rel=0.05)
    for name in ("k2", "k3"):
        assert sizes[name][0] / sizes[name][1] == pytest.approx(4, rel=0.05)
        assert sizes[name][0] < 0.05 * sizes["k1"][0]


@pytest.mark.parametrize(
    ("kl", "expected"),
    [(6.0, 0.2), (6.6, 0.202), (4.8, 0.196), (60.0, 0.204), (0.0, 0.196), (-3.0, 0.196)],
    ids=["at the target", "a tenth above", "a fifth below", "far above", "at the start", "negative"],
)
def test_the_coefficient_follows_the_kl_by_a_bounded_share_of_the_error(kl: float, expected: float) -> None:
    """β = 0.2, target 6, K = 0.1: the error is clipped to ±0.2, so β changes by at most 2 %."""
    assert adapted(0.2, kl, 6.0, 0.1) == pytest.approx(expected)
