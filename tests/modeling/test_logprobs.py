"""Masked statistics and log-probabilities against plain Python over the unmasked entries."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf.modeling import logprobs
from rlhf.modeling.logprobs import (
    last_index,
    masked_mean,
    masked_sum,
    masked_var,
    standardize,
    token_logprobs_and_entropies,
    token_shares,
)


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    found = token_logprobs_and_entropies(logits.flatten(0, 1), tokens.flatten(), temperature)[0]
    return found.view(tokens.shape)


def entropies(logits: Tensor, temperature: float) -> Tensor:
    tokens = torch.zeros(logits.shape[:-1], dtype=torch.long).flatten()
    return token_logprobs_and_entropies(logits.flatten(0, -2), tokens, temperature)[1].view(logits.shape[:-1])


MASK = torch.tensor([[True, True, False], [True, False, False]])
X = torch.tensor([[1.0, 2.0, math.inf], [6.0, math.nan, -math.inf]])


@st.composite
def ragged(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Values and a mask of up to five rows of different lengths, at least one entry in each."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    number = st.floats(-100, 100, width=32)
    rows = [draw(st.lists(number, min_size=max(lengths), max_size=max(lengths))) for _ in lengths]
    return torch.tensor(rows), torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def test_masked_values_have_no_effect_even_if_infinite() -> None:
    """Over 1, 2, 6: sum 9, mean 3, variance (4 + 1 + 9) / 2 = 7."""
    assert masked_sum(X, MASK) == 9
    assert masked_mean(X, MASK) == 3
    assert masked_var(X, MASK) == 7
    assert torch.allclose(standardize(X, MASK)[MASK], torch.tensor([-2.0, -1.0, 3.0]) / math.sqrt(7))
    assert (standardize(X, MASK)[~MASK] == 0).all()


def test_a_masked_infinity_gives_no_gradient() -> None:
    x = X.clone().requires_grad_()
    masked_mean(x, MASK).backward()
    assert x.grad.tolist() == [[pytest.approx(1 / 3), pytest.approx(1 / 3), 0], [pytest.approx(1 / 3), 0, 0]]


def test_one_entry_alone_has_no_spread() -> None:
    alone = torch.tensor([[5.0]])
    assert masked_var(alone, torch.tensor([[True]])) == 0
    assert standardize(alone, torch.tensor([[True]])) == 0


@given(ragged())
def test_statistics_are_those_of_the_unmasked_entries(case: tuple[Tensor, Tensor]) -> None:
    x, mask = case
    kept = [value for row, keep in zip(x.tolist(), mask.tolist(), strict=True) for value, k in zip(row, keep) if k]  # noqa: B905
    mean = sum(kept) / len(kept)
    var = sum((value - mean) ** 2 for value in kept) / max(len(kept) - 1, 1)
    assert masked_mean(x, mask).item() == pytest.approx(mean, abs=1e-3)
    assert masked_var(x, mask).item() == pytest.approx(var, rel=1e-3, abs=1e-3)


@given(ragged())
def test_standardized_values_have_mean_zero_and_variance_one(case: tuple[Tensor, Tensor]) -> None:
    x, mask = case[0].double(), case[1]
    if masked_var(x, mask) < 1e-2:
        return
    z = standardize(x, mask)
    assert masked_mean(z, mask).item() == pytest.approx(0, abs=1e-6)
    assert masked_var(z, mask).item() == pytest.approx(1, abs=1e-4)
    assert torch.allclose(standardize(x + 100, mask), z, atol=1e-6)  # the mean is never put back


def test_statistics_of_a_larger_population_can_be_given() -> None:
    assert standardize(torch.tensor([[5.0]]), torch.tensor([[True]]), torch.tensor(1.0), torch.tensor(4.0)) == 2


def test_logprobs_by_hand() -> None:
    """Odds 1 : 3 are log-probabilities log 1/4 and log 3/4; at temperature 1/2 the odds are squared, 1 : 9."""
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, math.log(3)]]])
    tokens = torch.tensor([[0, 1]])
    assert token_logprobs(logits, tokens, 1.0).exp().tolist() == [pytest.approx([1 / 4, 3 / 4])]
    assert token_logprobs(logits, tokens, 0.5).exp().tolist() == [pytest.approx([1 / 10, 9 / 10])]


def test_logprobs_are_a_log_softmax_of_divided_logits_in_float32() -> None:
    logits = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0)).bfloat16()
    tokens = torch.randint(7, (3, 4), generator=torch.Generator().manual_seed(1))
    found = token_logprobs(logits, tokens, 0.7)
    assert found.dtype is torch.float32
    for row in range(3):
        for t in range(4):
            z = [value / 0.7 for value in logits[row, t].tolist()]
            expected = z[tokens[row, t]] - math.log(sum(map(math.exp, z)))
            assert found[row, t].item() == pytest.approx(expected, abs=1e-5)


def test_entropies_by_hand() -> None:
    """Uniform over 4: log 4. (1/4, 3/4): ¼ log 4 + ¾ log 4/3. At temperature 1/2 the latter is (1/10, 9/10)."""
    assert entropies(torch.zeros(1, 1, 4), 1.0).item() == pytest.approx(math.log(4))
    odds = torch.tensor([[[0.0, math.log(3)]]])
    assert entropies(odds, 1.0).item() == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3))
    assert entropies(odds, 0.5).item() == pytest.approx(0.1 * math.log(10) + 0.9 * math.log(10 / 9))


def test_shares_count_tokens_or_responses_alike() -> None:
    assert token_shares(MASK, by_response=False).tolist() == [[1, 1, 0], [1, 0, 0]]
    assert token_shares(MASK, by_response=True).tolist() == [[0.5, 0.5, 0], [1, 0, 0]]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_the_gradient_of_the_entropy_is_that_of_finite_differences(temperature: float) -> None:
    """With respect to the logits, before the temperature divides them; in float64, which is kept."""
    logits = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def at(z: Tensor) -> float:
        total = 0.0
        for row in z[0].tolist():
            odds = [math.exp(value / temperature) for value in row]
            total -= sum(value / sum(odds) * math.log(value / sum(odds)) for value in odds)
        return total

    x = logits.clone().requires_grad_()
    entropies(x.clone(), temperature).sum().backward()
    for t in range(2):
        for v in range(5):
            step = torch.zeros_like(logits)
            step[0, t, v] = 1e-5
            slope = (at(logits + step) - at(logits - step)) / 2e-5
            assert x.grad[0, t, v].item() == pytest.approx(slope, abs=1e-8)


def test_the_last_index_is_that_of_the_last_true_entry() -> None:
    assert last_index(MASK).tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tile_by_tile_they_are_what_autograd_makes_of_the_definition(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven tokens in tiles of two; another weight for each, so that rows cannot be mixed up. A token that cannot be
    drawn, at -inf, has no entropy and no gradient."""
    monkeypatch.setattr(logprobs, "TILE", 2 * 11)
    draw = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(7, 11, generator=draw, dtype=torch.float64)).to(dtype)
    logits[:, 4] = -math.inf
    tokens, weights = torch.tensor([0, 1, 2, 3, 10, 9, 0]), torch.randn(2, 7, generator=draw, dtype=torch.float64)
    x, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = token_logprobs_and_entropies(x.clone(), tokens, 0.7)
    logp = torch.log_softmax(y.to(found[0].dtype) / 0.7, -1)
    expected = logp.gather(1, tokens[:, None])[:, 0], -(logp.exp() * logp.clamp(min=-1e30)).sum(-1)
    for own, other in zip(found, expected, strict=True):
        assert torch.allclose(own, other, atol=1e-12 if dtype is torch.float64 else 2e-6)
    sum((weight * one).sum() for weight, one in zip(weights, found, strict=True)).backward()
    sum((weight * one).sum() for weight, one in zip(weights, expected, strict=True)).backward()
    assert torch.allclose(x.grad, y.grad, atol={torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, 2e-2))
    assert (x.grad[:, 4] == 0).all()
