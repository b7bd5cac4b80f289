"""Losses and gradients of a minibatch equal those of a plain implementation of the algorithm in forty lines."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from rlhf.ppo import PPOTrainer, checkpoint
from rlhf.ppo.rollout import Rollout
from tests.ppo.conftest import experience, model_inputs, new_policy

Trainers = Callable[..., PPOTrainer]


def plain(trainer: PPOTrainer, batch: Rollout, advantages: torch.Tensor, returns: torch.Tensor) -> dict[str, Any]:
    """Compute the whole padded batch at once: masks, positions, logits of every position, log_softmax, autograd."""
    stage, mask = trainer.stage, batch.mask.float()
    inputs = model_inputs(batch)
    length = mask.shape[1]
    share = mask / mask.sum(-1, keepdim=True) / len(mask) if stage.loss_mean.value == "response" else mask / mask.sum()

    logits = trainer.policy(**inputs).logits[:, -length - 1 : -1] / stage.temperature
    logp = logits.log_softmax(-1)
    logprobs = logp.gather(-1, batch.response_ids[..., None])[..., 0]
    entropy = -(logp.exp() * logp).sum(-1)
    ratio = (logprobs - batch.logprobs).exp()
    surrogate = -torch.minimum(
        ratio * advantages, ratio.clamp(1 - stage.clip_low, 1 + stage.clip_high) * advantages
    )  # fmt: skip
    policy_loss = (share * (surrogate - stage.entropy_coef * entropy)).sum()

    model = trainer.critic.classifier
    hidden = model.base_model(**inputs).last_hidden_state
    values = model.score(hidden)[:, -length - 1 : -1, 0]
    near = batch.values + (values - batch.values).clamp(-stage.value_clip, stage.value_clip)
    value_loss = (share * 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)).sum()

    (policy_loss + value_loss).backward()
    return {
        "loss/policy_avg": policy_loss.item(),
        "loss/value_avg": value_loss.item(),
        "policy/entropy_avg": ((mask * entropy).sum() / mask.sum()).item(),
        "val/ratio": ((mask * ratio).sum() / mask.sum()).item(),
    }


def gradients(trainer: PPOTrainer) -> dict[str, torch.Tensor]:
    models = (trainer.policy, trainer.critic)
    return {
        f"{number} {name}": parameter.grad.clone()
        for number, model in enumerate(models)
        for name, parameter in checkpoint.trainable(model).items()
        if parameter.grad is not None
    }


def adapted(tokenizer: Any) -> Any:
    torch.manual_seed(3)
    return get_peft_model(new_policy(tokenizer), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))


@pytest.mark.parametrize("options", [{}, {"loss_mean": "response", "entropy_coef": 0.1}], ids=["tokens", "responses"])
@pytest.mark.parametrize(("size", "tokens"), [(None, None), (2, None), (None, 18), (3, 30), (1, None)])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_losses_and_gradients_are_those_of_the_plain_algorithm(
    new_trainer: Trainers, tokenizer: Any, size: int | None, tokens: int | None, options: dict[str, Any], lora: bool
) -> None:
    """The models have moved since the rollout, so that ratios are not 1 and some ratios and values are clipped."""
    policy = {"policy": adapted(tokenizer), "reference": None} if lora else {}
    trainer = new_trainer(micro_batch_size=size, micro_batch_tokens=tokens, **policy, **options)
    batch, advantages, returns = experience(trainer)
    assert len(set(batch.mask.sum(-1).tolist())) > 1
    with torch.no_grad():
        draw = torch.Generator().manual_seed(1)
        for model in trainer.learner.modules.values():
            for parameter in checkpoint.trainable(model).values():
                parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
    expected = plain(trainer, batch, advantages, returns)
    wanted = gradients(trainer)
    trainer.learner._forget()
    found, error = trainer.learner._accumulate(batch, advantages, returns, 0.0, learns=True)
    assert error > 0.2
    assert found["policy/clipfrac_avg"] > 0 < found["val/clipfrac_avg"]
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-6)
    made = gradients(trainer)
    assert set(made) == set(wanted)
    for name, gradient in wanted.items():
        assert torch.allclose(made[name], gradient, rtol=1e-4, atol=1e-5 * max(gradient.abs().max().item(), 1)), name
