"""A batch of experience turned into steps of both models: gradients, their bounds, and what changes nothing."""

import math
from collections.abc import Callable

import pytest
import torch

from rlhf.errors import TrainingError
from rlhf.ppo import PPOTrainer
from rlhf.ppo.ranks import whiten
from rlhf.ppo.report import report
from tests.ppo.conftest import close, experience, same, weights

Trainers = Callable[..., PPOTrainer]


def test_logprobs_that_are_not_the_policys_are_refused(new_trainer: Trainers) -> None:
    trainer = new_trainer()
    rollout, advantages, returns = experience(trainer)
    with pytest.raises(TrainingError, match="ratio"):
        trainer.learner.improve(rollout._replace(logprobs=rollout.logprobs + 0.01), advantages, returns, 0)


@pytest.mark.parametrize("size", [1, 4, 6])
def test_accumulated_micro_batches_give_the_step_of_the_full_batch(new_trainer: Trainers, size: int) -> None:
    """Rows have different lengths: a mean of means over micro-batches would be another gradient.

    Plain gradient descent instead of Adam, whose first step has only the gradient's sign.
    """
    found = []
    for micro_batch_size in (6, size):
        trainer = new_trainer(minibatches=1, epochs=1, micro_batch_size=micro_batch_size, max_grad_norm=1e9)
        trainer.learner.optimizers = {
            name: torch.optim.SGD(model.parameters(), lr=1.0) for name, model in trainer.learner.modules.items()
        }
        rollout, advantages, returns = experience(trainer)
        assert len(set(rollout.mask.sum(-1).tolist())) > 1
        metrics = trainer.learner.improve(rollout, advantages, returns, 0)
        found.append((weights(trainer.policy), weights(trainer.critic), metrics))
    for expected, other in zip(found[0][:2], found[1][:2], strict=True):
        assert close(expected, other, atol=1e-6)
    assert found[0][2] == pytest.approx(found[1][2], abs=1e-5)


def test_the_gradient_is_that_of_the_mean_over_tokens(new_trainer: Trainers) -> None:
    """At ratio 1 the policy's loss is -mean A·log π up to a constant; autograd on that is the second way."""
    trainer = new_trainer(minibatches=1, epochs=1, micro_batch_size=2, max_grad_norm=1e9)
    rollout, advantages, returns = experience(trainer)
    rate = trainer.stage.learning_rate
    trainer.learner.optimizers["policy"] = torch.optim.SGD(trainer.policy.parameters(), lr=rate)
    before = weights(trainer.policy)
    expected = torch.zeros_like(trainer.policy.lm_head.weight)
    total = int(rollout.mask.sum())
    for row in range(6):
        ids = rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist()
        for t in range(int(rollout.mask[row].sum())):
            token = int(rollout.response_ids[row, t])
            logits = trainer.policy(torch.tensor([ids])).logits[0, -1] / trainer.stage.temperature
            loss = -advantages[row, t] * torch.log_softmax(logits, -1)[token] / total
            expected += torch.autograd.grad(loss, trainer.policy.lm_head.weight)[0]
            ids.append(token)
    trainer.learner.improve(rollout, advantages, returns, 0)
    moved = before["lm_head.weight"] - trainer.policy.lm_head.weight.detach()
    assert torch.allclose(moved, rate * expected, atol=1e-6)
    assert moved.abs().max() > 1e-4


@pytest.mark.parametrize("change", ["left padding", "right padding", "order"])
def test_padding_and_order_change_no_loss_and_no_metric(new_trainer: Trainers, change: str) -> None:
    found = []
    for changed in (False, True):
        trainer = new_trainer(minibatches=1, epochs=2, micro_batch_size=4)
        rollout, advantages, returns = experience(trainer)
        pad = torch.nn.functional.pad
        if changed and change == "order":
            order = torch.tensor([5, 0, 3, 1, 4, 2])
            rollout, advantages, returns = rollout.rows(order), advantages[order], returns[order]
        elif changed and change == "left padding":
            rollout = rollout._replace(
                prompt_ids=pad(rollout.prompt_ids, (3, 0)), prompt_mask=pad(rollout.prompt_mask, (3, 0))
            )
        elif changed:
            wide = {name: pad(getattr(rollout, name), (0, 3)) for name in ("response_ids", "mask", "logprobs")}
            wide |= {name: pad(getattr(rollout, name), (0, 3)) for name in ("ref_logprobs", "values")}
            rollout, advantages, returns = rollout._replace(**wide), pad(advantages, (0, 3)), pad(returns, (0, 3))
        whitened = whiten(advantages, rollout.mask, trainer.accelerator)
        metrics = trainer.learner.improve(rollout, whitened, returns, 0)
        penalties = torch.zeros_like(returns)
        found.append(metrics | report(rollout, rollout.scores, penalties, returns, trainer.accelerator))
    assert found[0] == pytest.approx(found[1], abs=2e-4)


def test_the_gradients_of_each_model_are_clipped_by_themselves(new_trainer: Trainers) -> None:
    """By plain gradient descent at rate 1 each model moves as far as the bound on its gradient's norm."""
    trainer = new_trainer(minibatches=1, epochs=1, max_grad_norm=1e-3, learning_rate=1.0, critic_learning_rate=1.0)
    rollout, advantages, returns = experience(trainer)
    learner = trainer.learner
    learner.optimizers = {name: torch.optim.SGD(model.parameters(), lr=1.0) for name, model in learner.modules.items()}
    before = {name: weights(model) for name, model in learner.modules.items()}
    learner.improve(rollout, advantages, returns, 0)
    for name, model in learner.modules.items():
        moved = [(value - before[name][key]).double().square().sum() for key, value in weights(model).items()]
        assert sum(moved).sqrt().item() == pytest.approx(1e-3, rel=1e-2)


def test_a_gradient_that_is_no_number_changes_no_parameter(new_trainer: Trainers) -> None:
    """The critic's gradient is infinite, the policy's is fine: neither model takes the step."""
    trainer = new_trainer(minibatches=1)
    rollout, advantages, returns = experience(trainer)
    trainer.critic.classifier.score.weight.register_hook(lambda gradient: gradient * math.inf)
    before = weights(trainer.policy), weights(trainer.critic)
    with pytest.raises(TrainingError, match="critic"):
        trainer.learner.improve(rollout, advantages, returns, 0)
    assert same(before[0], weights(trainer.policy))
    assert same(before[1], weights(trainer.critic))


def test_an_advantage_that_is_no_number_is_refused(new_trainer: Trainers) -> None:
    trainer = new_trainer()
    rollout, advantages, returns = experience(trainer)
    advantages[0, 0] = math.nan
    nowhere = whiten(advantages, rollout.mask, trainer.accelerator)
    with pytest.raises(TrainingError, match="policy"):
        trainer.learner.improve(rollout, nowhere, returns, 0)


def test_in_its_warm_up_the_critic_alone_learns(new_trainer: Trainers) -> None:
    trainer = new_trainer(critic_warmup_updates=1, updates=2)
    before = weights(trainer.policy), weights(trainer.critic)
    trainer.step(trainer.batch(0))
    assert same(before[0], weights(trainer.policy))
    assert not same(before[1], weights(trainer.critic))
    trainer.step(trainer.batch(1))
    assert not same(before[0], weights(trainer.policy))


def test_learning_rates_rise_linearly_then_fall_linearly(new_trainer: Trainers) -> None:
    """Four updates with a warm-up of two: the shares are ½·1, 1·¾, 1·½, 1·¼."""
    logged: list[dict[str, float]] = []
    new_trainer(
        warmup_updates=2, learning_rate=0.04, critic_learning_rate=0.08, log=lambda metrics, _: logged.append(metrics)
    ).train()
    assert [metrics["lr"] for metrics in logged] == pytest.approx([0.02, 0.03, 0.02, 0.01])
    assert [metrics["lr/critic"] for metrics in logged] == pytest.approx([0.04, 0.06, 0.04, 0.02])
