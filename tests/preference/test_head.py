import pytest
import torch
from torch import Tensor
from trl.kernels import ChunkedLogProbFunction

from rlhf.preference import head

ALL = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


def parts(bias: bool, count: int = 37) -> tuple[Tensor, torch.nn.Linear, Tensor]:
    torch.manual_seed(0)
    projection = torch.nn.Linear(16, 50, bias=bias)
    torch.nn.init.normal_(projection.weight, std=0.5)
    hidden = torch.randn(count, 16, requires_grad=True)
    return hidden, projection, torch.cat([projection(hidden).argmax(-1)[:9], torch.randint(50, (count,))])[:count]


def gradients(value: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((value * torch.linspace(-1, 2, len(value))).sum(), of)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("tile", "kept"), [(2**23, 2**27), (500, 2**27), (500, 1000), (10, 10)])
def test_values_are_the_log_softmax_and_trls_statistics(
    monkeypatch: pytest.MonkeyPatch, bias: bool, tile: int, kept: int
) -> None:
    """With any tiling, and with probabilities computed again."""
    monkeypatch.setattr(head, "TILE", tile)
    monkeypatch.setattr(head, "KEPT", kept)
    hidden, projection, targets = parts(bias)
    found = head.score(projection, hidden, targets, ALL)
    expected = projection(hidden).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(found["log_probs"], expected)
    theirs = ChunkedLogProbFunction.apply(
        hidden, projection.weight, projection.bias, targets, 1.0, 32768, None, 1.0, ALL[1:]
    )
    for name, value in zip(ALL, theirs, strict=True):
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
    of = (hidden, *projection.parameters())
    torch.testing.assert_close(gradients(found["log_probs"], *of), gradients(expected, *of), rtol=1e-5, atol=1e-5)


def test_a_frozen_head_lets_the_gradient_through() -> None:
    hidden, projection, targets = parts(False)
    projection.requires_grad_(False)
    ours = gradients(head.score(projection, hidden, targets, ("log_probs",))["log_probs"], hidden)
    expected = projection(hidden).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(ours, gradients(expected, hidden))


def test_the_first_of_equal_logits_is_the_likeliest() -> None:
    projection = torch.nn.Linear(2, 3, bias=False)
    torch.nn.init.zeros_(projection.weight)
    found = head.score(projection, torch.ones(3, 2), torch.arange(3), ("log_probs", "is_top1"))
    assert found["is_top1"].tolist() == [True, False, False]


def test_an_unlikely_token_has_its_log_probability() -> None:
    """Its probability, exp(-200), underflows in single precision."""
    projection = torch.nn.Linear(1, 2, bias=False)
    projection.weight.data = torch.tensor([[0.0], [200.0]])
    found = head.score(projection, torch.ones(1, 1), torch.tensor([0]), ("log_probs",))
    assert found["log_probs"].item() == -200


def test_values_go_to_the_places_of_the_mask() -> None:
    mask = torch.tensor([[False, True], [True, False]])
    found = head.scattered({"log_probs": torch.tensor([-1.0, -3.0])}, mask)
    assert found.log_probs.tolist() == [[0, -1], [-3, 0]]
    assert found.loss.item() == 2
    assert found.entropy is None
