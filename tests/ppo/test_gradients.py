"""Gradients of a minibatch, compared with those of one token at a time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlhf.ppo import PPOTrainer
from rlhf.ppo.rollout import Rollout
from tests.ppo.conftest import experience, new_policy

Trainers = Callable[..., PPOTrainer]
OfToken = Callable[[int, int, torch.Tensor], torch.Tensor]


def moved(trainer: PPOTrainer, rollout: Rollout, *arguments: Any) -> torch.Tensor:
    """Return the gradient of the policy's head, from one step of plain gradient descent."""
    rate = trainer.stage.learning_rate
    trainer.learner.optimizers["policy"] = torch.optim.SGD(trainer.policy.parameters(), lr=rate)
    before = trainer.policy.lm_head.weight.detach().clone()
    trainer.learner.improve(rollout, *arguments)
    return (before - trainer.policy.lm_head.weight.detach()) / rate


def by_hand(trainer: PPOTrainer, rollout: Rollout, of_token: OfToken, by_response: bool = False) -> torch.Tensor:
    """Return the gradient of the mean of ``of_token(row, t, logp)`` over tokens, one at a time: the oracle.

    ``logp`` are the log-probabilities of the whole vocabulary after an unpadded prefix.
    """
    head = trainer.policy.lm_head.weight
    expected = torch.zeros_like(head)
    lengths = rollout.mask.sum(-1).tolist()
    for row, length in enumerate(lengths):
        ids = rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist()
        for t in range(length):
            logits = trainer.policy(torch.tensor([ids])).logits[0, -1] / trainer.stage.temperature
            share = 1 / (length * len(lengths)) if by_response else 1 / sum(lengths)
            loss = of_token(row, t, torch.log_softmax(logits, -1))
            expected += torch.autograd.grad(share * loss, head)[0]
            ids.append(int(rollout.response_ids[row, t]))
    return expected


def surrogate(rollout: Rollout, advantages: torch.Tensor) -> OfToken:
    """Return -A·log π, the policy's loss at ratio 1 up to a constant."""
    return lambda row, t, logp: -advantages[row, t] * logp[rollout.response_ids[row, t]]


ONE_STEP = {"minibatches": 1, "epochs": 1, "micro_batch_size": 2, "max_grad_norm": 1e9}


@pytest.mark.parametrize("loss_mean", ["token", "response"])
def test_the_gradient_is_that_of_the_mean_over_tokens_or_responses(new_trainer: Trainers, loss_mean: str) -> None:
    trainer = new_trainer(**ONE_STEP, loss_mean=loss_mean)
    rollout, advantages, returns = experience(trainer)
    loss = surrogate(rollout, advantages)
    expected = by_hand(trainer, rollout, loss, loss_mean == "response")
    other = by_hand(trainer, rollout, loss, loss_mean != "response")
    found = moved(trainer, rollout, advantages, returns, 0)
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, other, atol=1e-2)


def test_the_entropy_bonus_adds_the_gradient_of_the_mean_entropy(new_trainer: Trainers) -> None:
    """With advantages of 0 it is the only term; the entropy is that of the sampling distribution."""
    trainer = new_trainer(**ONE_STEP, entropy_coef=0.5)
    rollout, advantages, returns = experience(trainer)
    expected = by_hand(trainer, rollout, lambda row, t, logp: 0.5 * (logp.exp() * logp).sum())
    found = moved(trainer, rollout, torch.zeros_like(advantages), returns, 0)
    assert torch.allclose(found, expected, atol=1e-4)
    assert found.abs().max() > 1e-2


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_the_kl_in_the_loss_pulls_by_its_own_gradient(new_trainer: Trainers, tokenizer: Any, estimator: str) -> None:
    """With advantages of 0 it is the only term; the reference is another model, so that the penalty is not 0."""
    trainer = new_trainer(**ONE_STEP, kl_in="loss", kl_estimator=estimator, reference=new_policy(tokenizer, 5))
    rollout, advantages, returns = experience(trainer)

    def loss(row: int, t: int, logp: torch.Tensor) -> torch.Tensor:
        x = logp[rollout.response_ids[row, t]] - rollout.ref_logprobs[row, t]
        return 0.3 * (0.5 * x**2 if estimator == "k2" else (-x).exp() - 1 + x)

    expected = by_hand(trainer, rollout, loss)
    found = moved(trainer, rollout, torch.zeros_like(advantages), returns, 0, 0.3)
    assert torch.allclose(found, expected, atol=1e-4)
    assert found.abs().max() > 1e-2


def test_tokens_of_another_engine_are_weighted_by_their_importance(new_trainer: Trainers) -> None:
    """At ratio 1 a weight on the loss is a weight on the advantage; the engine's log-probabilities have random errors.

    Without the option the step ignores them.
    """
    trainers = {cap: new_trainer(**ONE_STEP, importance_cap=cap) for cap in (None, 1.2)}
    rollout, advantages, returns = experience(trainers[None])
    noise = 0.5 * torch.randn(rollout.mask.shape, generator=torch.Generator().manual_seed(0))
    weight = (-noise).exp().clamp(max=1.2)
    plain = by_hand(trainers[None], rollout, surrogate(rollout, advantages))
    weighted = by_hand(trainers[None], rollout, surrogate(rollout, weight * advantages))
    rollout = rollout._replace(sampler_logprobs=rollout.logprobs + noise)
    assert torch.allclose(moved(trainers[None], rollout, advantages, returns, 0), plain, atol=1e-4)
    assert torch.allclose(moved(trainers[1.2], rollout, advantages, returns, 0), weighted, atol=1e-4)
    assert not torch.allclose(plain, weighted, atol=1e-2)
