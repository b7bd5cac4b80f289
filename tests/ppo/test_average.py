from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlhf.ppo import PPOTrainer
from rlhf.ppo.checkpoint import trainable
from tests.ppo.conftest import same, weights

Trainers = Callable[..., PPOTrainer]


def test_it_is_the_weighted_mean_of_all_updates(new_trainer: Trainers) -> None:
    """And changes neither the training nor the policy until it is asked to."""
    plain, trainer = new_trainer(updates=3), new_trainer(updates=3, ema=0.75)
    steps = [list(weights(trainer.policy).values())]
    trainer.log = lambda *_: steps.append(list(weights(trainer.policy).values()))
    trainer.train()
    plain.train()
    assert same(weights(plain.policy), weights(trainer.policy))
    shares = (0.75**3, 0.25 * 0.75**2, 0.25 * 0.75, 0.25)
    expected = [
        sum(share * value for share, value in zip(shares, values, strict=True)) for values in zip(*steps, strict=True)
    ]
    trainer.learner.average.give()
    for found, value in zip(trainable(trainer.policy).values(), expected, strict=True):
        assert torch.allclose(found, value, atol=1e-6)
    assert not same(weights(plain.policy), weights(trainer.policy))


def test_it_is_resumed(new_trainer: Trainers, tmp_path: Path) -> None:
    whole, cut, resumed = (new_trainer(updates=2, ema=0.75) for _ in range(3))
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        cut.train(tmp_path / "cut", lambda: cut.update == 1)
    resumed.restore(tmp_path / "cut")
    resumed.train()
    assert same(weights(whole.learner.average), weights(resumed.learner.average))


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_small_steps_are_not_lost_in_half_precision(new_trainer: Trainers, dtype: torch.dtype) -> None:
    trainer = new_trainer(ema=0.999)
    average, policy = trainer.learner.average, trainer.policy.to(dtype)
    for parameter in policy.parameters():
        parameter.data += 1
    before = weights(average)
    average.update()
    assert all(value.dtype is torch.float32 for value in average.weights)
    assert all(not torch.equal(value, before[name]) for name, value in weights(average).items())
