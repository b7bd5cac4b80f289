"""Losses and gradients on a fixed rollout against TRL's GRPOTrainer and RLOOTrainer, and their advantages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from rlhf.ppo import PPOTrainer
from rlhf.ppo.rollout import Rollout
from tests.ppo.conftest import PROMPTS, experience, length_reward, new_policy

Trainers = Callable[..., PPOTrainer]
K = 4
BOUNDS = {"clip_low": 0.2, "clip_high": 0.28}
LOSSES = {  # TRL's loss type -> the same settings here
    "grpo": {"advantage": "grpo"},
    "dr_grpo": {"advantage": "dr_grpo"},
    "dapo": {"advantage": "grpo", "loss_mean": "token"},
    "bnpo": {"advantage": "grpo", "loss_mean": "token"},
}


def theirs(kind: type, arguments: type, tokenizer: Any, policy: Any, folder: Path, **options: Any) -> Any:
    settings = arguments(
        output_dir=str(folder), per_device_train_batch_size=24, num_generations=K, temperature=0.7, epsilon=0.2,
        epsilon_high=0.28, max_completion_length=6, report_to="none", use_cpu=True, bf16=False, disable_tqdm=True,
        activation_checkpointing=False, **options,
    )  # fmt: skip
    policy.save_pretrained(folder / "policy")  # TRL loads the reference from there
    policy = type(policy).from_pretrained(folder / "policy").eval()
    rows = Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS[:6]])
    return kind(policy, length_reward, args=settings, train_dataset=rows, processing_class=tokenizer)


def inputs(rollout: Rollout, advantages: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the inputs of TRL's loss."""
    return {
        "prompt_ids": rollout.prompt_ids, "prompt_mask": rollout.prompt_mask.long(),
        "completion_ids": rollout.response_ids, "completion_mask": rollout.mask.long(),
        "advantages": advantages[:, 0], "old_per_token_logps": rollout.logprobs,
        "old_logps": (rollout.logprobs * rollout.mask).sum(-1), "ref_per_token_logps": rollout.ref_logprobs,
        "num_items_in_batch": rollout.mask.sum(),
    }  # fmt: skip


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def compare(ours: PPOTrainer, trainer: Any, kl_coef: float, shift: float) -> None:
    """Check loss and gradients with ratios of about e^±shift."""
    rollout, advantages, returns = experience(ours)
    lengths = 1 + torch.arange(len(rollout.mask)) % rollout.mask.shape[1]
    rollout = rollout._replace(mask=rollout.mask & (torch.arange(rollout.mask.shape[1]) < lengths[:, None]))
    torch.manual_seed(3)
    rollout = rollout._replace(
        logprobs=torch.where(rollout.mask, rollout.logprobs + shift * torch.randn(rollout.mask.shape), 0.0)
    )
    found, _ = ours.learner._accumulate(rollout, advantages, returns, kl_coef, True)
    trainer.model.eval()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(trainer.model, inputs(rollout, advantages))
    loss.backward()
    assert found["loss/policy_avg"] == pytest.approx(loss.item(), abs=1e-5)
    own, expected = gradients(ours.policy), gradients(trainer.model)
    assert own.keys() == expected.keys()
    assert max(value.abs().max() for value in expected.values()) > 1e-3
    for name, value in expected.items():
        torch.testing.assert_close(own[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("kl", "shift"),
    [({"kl_coef": 0.0}, 0.3), ({"kl_coef": 0.1}, 0.0), ({"kl_coef": 0.1, "kl_ratio_gradient": True}, 0.3)],
    ids=["clipped", "with the KL", "with the KL's ratio"],
)
def test_losses_and_gradients_are_those_of_trls_grpo(
    new_trainer: Trainers, tokenizer: Any, tmp_path: Path, loss: str, kl: dict, shift: float
) -> None:
    """TRL's default is the ratio with its gradient, and its alternative no ratio, which equals ours if ratios are 1."""
    options = {"samples": K, "minibatches": 1, "reference": new_policy(tokenizer, 5)} | kl
    penalty = {"beta": kl["kl_coef"], "use_bias_correction_kl": "kl_ratio_gradient" in kl}
    ours = new_trainer(**options | BOUNDS | LOSSES[loss])
    trainer = theirs(GRPOTrainer, GRPOConfig, tokenizer, new_policy(tokenizer), tmp_path, loss_type=loss, **penalty)
    compare(ours, trainer, kl["kl_coef"], shift)


def test_loss_and_gradients_are_those_of_trls_rloo(new_trainer: Trainers, tokenizer: Any, tmp_path: Path) -> None:
    ours = new_trainer(samples=K, minibatches=1, advantage="rloo", **BOUNDS)
    trainer = theirs(RLOOTrainer, RLOOConfig, tokenizer, new_policy(tokenizer), tmp_path, beta=0.05)
    compare(ours, trainer, 0.0, 0.1)
