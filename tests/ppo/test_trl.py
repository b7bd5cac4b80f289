"""Losses and gradients on a fixed rollout against TRL's GRPOTrainer and RLOOTrainer, and their advantages."""

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from rlhf.ppo import PPOTrainer, settings
from rlhf.ppo.rollout import Rollout
from tests.docs import page, section
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


def test_the_settings_of_trl_are_its_defaults() -> None:
    """docs/advantages.md has a column for each of the two trainers; rows without a default follow from their losses."""
    lines = [line for line in section(page("advantages"), "Settings of other trainers").splitlines() if "|" in line]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    given = {tuple(re.findall(r"\w+", row[0])): row[1:3] for row in cells[1:]}
    configs = [{field.name: field.default for field in fields(kind)} for kind in (GRPOConfig, RLOOConfig)]
    names = {  # of settings whose values TRL has under another name
        ("samples",): "num_generations", ("epochs",): "num_iterations", ("kl_coef",): "beta",
        ("learning_rate",): "learning_rate", ("max_grad_norm",): "max_grad_norm", ("adam_epsilon",): "adam_epsilon",
        ("temperature",): "temperature", ("max_response_length",): "max_completion_length",
        ("warmup_updates",): "warmup_steps",
    }  # fmt: skip
    for row, name in names.items():
        assert [float(cell) for cell in given[row]] == [float(config[name]) for config in configs], row
    for column, config in enumerate(configs):
        of = {row: cells[column] for row, cells in given.items()}
        rows = config["per_device_train_batch_size"] * config["gradient_accumulation_steps"]
        assert of["batch_size", "prompts"] == f"{rows // config['num_generations']} per process"
        assert config["steps_per_generation"] is config["generation_batch_size"] is None  # one optimizer step per batch
        assert config["epsilon_high"] is None
        assert of["clip_low", "clip_high"] == ", ".join([f"{config['epsilon']:g}"] * 2)
        assert (of["schedule",], config["lr_scheduler_type"]) == ("linear to 0", "linear")
        assert (of["missing_eos",], config["mask_truncated_completions"]) == ("keep", False)
    grpo, rloo = configs
    assert (grpo["loss_type"], grpo["scale_rewards"], grpo["use_bias_correction_kl"]) == ("dapo", "group", True)
    assert (grpo["importance_sampling_level"], grpo["delta"]) == ("token", None)
    assert (rloo["normalize_advantages"], rloo["reward_clip_range"]) == (False, None)
    for column in (0, 1):  # all of them are settings of this trainer
        plain = {row[0]: cells[column] for row, cells in given.items() if len(row) == 1 and row != ("schedule",)}
        values = {name: yaml.safe_load(re.sub(r"e-", r".0e-", cell)) for name, cell in plain.items() if cell != "–"}
        settings(**values)
