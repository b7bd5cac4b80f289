"""Bytes of a device against the ZeRO paper's own example and by hand."""

import pytest
import torch

from rlhf.config import Strategy
from rlhf.planning.strategy import Ranks

PSI = 7_500_000_000


@pytest.mark.parametrize(
    ("strategy", "gigabytes"),
    [(Strategy.deepspeed_zero2, 16.6), (Strategy.deepspeed_zero3, 1.9)],
)
def test_figure_1_of_the_paper(strategy: Strategy, gigabytes: float) -> None:
    """Ψ = 7.5 billion in half precision on 64 GPUs: of 120 GB each holds 16.6 (2Ψ + 14Ψ/64), or 1.9 (16Ψ/64)."""
    ranks = Ranks(strategy, 64)
    held = ranks.weights(PSI, 2) + ranks.gradients(PSI, 2) + ranks.optimizer(PSI, 2)
    assert held / 1e9 == pytest.approx(gigabytes, abs=0.05)


def test_on_one_device_nothing_is_divided() -> None:
    ranks = Ranks(Strategy.none, 1)
    assert [ranks.weights(100, 2), ranks.gradients(100, 2), ranks.optimizer(100, 2)] == [200, 200, 400]
    assert ranks.gathered(10, 5, 2) == 0


def test_ddp_holds_gradients_twice() -> None:
    """In the parameters, and in the buckets that are averaged."""
    ranks = Ranks(Strategy.ddp, 8)
    assert [ranks.weights(100, 4), ranks.gradients(100, 4), ranks.optimizer(100, 4)] == [400, 800, 800]


def test_fsdp_trains_in_float32_whatever_it_casts_to() -> None:
    """4 + 4 + 8 bytes of 100 over 8; what is frozen stays in its type, and two layers at a time are gathered in it."""
    ranks = Ranks(Strategy.fsdp, 8)
    assert [ranks.weights(100, 2), ranks.gradients(100, 2), ranks.optimizer(100, 2)] == [50, 50, 100]
    assert ranks.weights(100, 2, trained=False) == 25
    assert ranks.gathered(10, 5, 2) == 2 * (2 * 10 + 5)


def test_deepspeed_needs_no_second_copy_of_float32() -> None:
    assert Ranks(Strategy.deepspeed_zero2, 1).optimizer(100, 4) == 800
    assert Ranks(Strategy.deepspeed_zero2, 1).optimizer(100, 2) == 1200


def test_adam_keeps_two_moments() -> None:
    layer = torch.nn.Linear(30, 20, bias=False)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    [state] = optimizer.state.values()
    assert sum(value.nbytes for value in state.values() if value.dim()) == Ranks(Strategy.none, 1).optimizer(600, 4)
