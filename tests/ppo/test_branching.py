from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.errors import RunError
from rlhf.ppo import Critic, PPOTrainer
from rlhf.ppo.branching import branch
from tests.ppo.conftest import new_reward_model, same, weights

Trainers = Callable[..., PPOTrainer]
ADAPTIVE = {"kl_target": 0.5, "kl_coef": 0.1}


@pytest.fixture
def source(new_trainer: Trainers, tmp_path: Path) -> PPOTrainer:
    """A run of four updates with an adaptive β; its checkpoints of updates 3 and 4 are in the test's folder."""
    trainer = new_trainer(**ADAPTIVE)
    trainer.train(tmp_path)
    return trainer


def test_an_average_starts_from_the_weights_of_the_checkpoint(
    source: PPOTrainer, new_trainer: Trainers, tmp_path: Path
) -> None:
    trainer = new_trainer(updates=6, ema=0.75)
    assert branch(trainer, tmp_path / "update-4", 0.1) == 4
    assert same(weights(trainer.policy), weights(source.policy))
    for mean, parameter in zip(trainer.learner.average.weights, source.policy.parameters(), strict=True):
        assert torch.equal(mean, parameter)


@pytest.mark.parametrize(
    ("options", "continues"),
    [(ADAPTIVE, True), (ADAPTIVE | {"kl_target": 0.7}, True), (ADAPTIVE | {"kl_coef": 0.3}, False), ({}, False)],
)
def test_an_adaptive_coefficient_continues_unless_another_is_set(
    source: PPOTrainer, new_trainer: Trainers, tmp_path: Path, options: dict[str, Any], continues: bool
) -> None:
    trainer = new_trainer(updates=6, **options)
    branch(trainer, tmp_path / "update-4", 0.1)
    assert source.kl_coef != 0.1
    assert trainer.kl_coef == (source.kl_coef if continues else trainer.stage.kl_coef)


def test_a_checkpoint_of_another_critic_is_refused(
    source: PPOTrainer, new_trainer: Trainers, tokenizer: Any, tmp_path: Path
) -> None:
    small = new_reward_model(tokenizer)
    small.score = torch.nn.Linear(16, 1)  # with a bias
    trainer = new_trainer(critic=Critic(small))
    with pytest.raises(RunError, match="update-4 has other weights than the critic: use the model that it was"):
        branch(trainer, tmp_path / "update-4", 0.1)
