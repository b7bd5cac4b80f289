"""PPO-ptx: the gradient of the text is added to every minibatch, and the rows depend only on the step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.errors import ConfigError
from rlhf.ppo import PPOTrainer
from tests.ppo.conftest import experience, same, weights
from tests.ppo.test_gradients import ONE_STEP, moved

Trainers = Callable[..., PPOTrainer]
TEXT = [[5, 9, 20, 3], [7, 7, 8, 40], [30, 2, 60, 11], [4, 90, 33, 21], [12, 13, 14, 15]]
PTX = {"ptx_coef": 3.0, "ptx_batch_size": 3, "ptx_block_length": 4, "text": TEXT}


@pytest.mark.parametrize("tokens", [2048, 8], ids=["at once", "in parts"])
def test_the_gradient_of_the_mean_loss_is_added(new_trainer: Trainers, tokens: int) -> None:
    """With advantages of 0 it is the only term; transformers' loss is the oracle, at temperature 1."""
    trainer = new_trainer(**ONE_STEP | {"micro_batch_size": 6}, **PTX, micro_batch_tokens=tokens)
    rollout, advantages, returns = experience(trainer)
    ids = trainer.learner.pretraining.batch(0)
    loss = trainer.policy(input_ids=ids, labels=ids).loss
    [expected] = torch.autograd.grad(3.0 * loss, trainer.policy.lm_head.weight)
    assert torch.allclose(moved(trainer, rollout, 0 * advantages, returns, 0), expected, atol=1e-5)
    again = new_trainer(**ONE_STEP, **PTX).learner.improve(rollout, 0 * advantages, returns, 0)
    assert again["loss/ptx_avg"] == pytest.approx(loss.item(), rel=1e-5)


def test_every_pass_has_every_row_once(new_trainer: Trainers) -> None:
    pretraining = new_trainer(**PTX).learner.pretraining
    seen = [row for step in range(10) for row in pretraining.batch(step).tolist()]
    passes = [seen[start : start + len(TEXT)] for start in range(0, len(seen), len(TEXT))]
    assert all(sorted(one) == sorted(TEXT) for one in passes)
    assert passes[0] != passes[1]
    assert pretraining.batch(7).tolist() == seen[21:24]


@pytest.mark.parametrize("options", [{"samples": 2, "shared_prefix": True}, {"critic_warmup_updates": 2}])
def test_resumed_it_reads_the_same_rows(new_trainer: Trainers, tmp_path: Path, options: dict[str, Any]) -> None:
    """With prompts that are computed once; and not at all while only the critic is trained."""
    whole, cut = (new_trainer(updates=2, **PTX, **options) for _ in range(2))
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        cut.train(tmp_path, lambda: cut.update == 1)
    resumed = new_trainer(updates=2, **PTX, **options)
    assert resumed.restore(tmp_path) == 1
    resumed.train()
    assert same(weights(whole.policy), weights(resumed.policy))
    assert ("loss/ptx_avg" in whole.metrics) == ("samples" in options)


def test_text_is_needed_if_and_only_if_it_is_learned(new_trainer: Trainers) -> None:
    with pytest.raises(ConfigError, match="stage.ptx_coef=3 needs pretraining text: change the argument text"):
        new_trainer(**PTX | {"text": None})
    with pytest.raises(ConfigError, match="stage.ptx_coef=0 does not use pretraining text"):
        new_trainer(text=TEXT)
