"""Checkpoints are complete or skipped, and restore training bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from torch.optim import AdamW

from rlhf.errors import RunError
from rlhf.ppo import checkpoint
from tests.ppo.conftest import new_policy, weights


def stepped(seed: int, steps: int = 2) -> tuple[dict[str, nn.Module], dict[str, AdamW]]:
    """Return a model and its optimizer after some steps."""
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {"policy": model}, {"policy": optimizer}


def test_restored_weights_and_optimizer_take_the_same_step(tmp_path: Path) -> None:
    modules, optimizers = stepped(0)
    checkpoint.save(tmp_path, modules, optimizers, 3, {"loss": 0.1})
    others, other_optimizers = stepped(1, steps=0)
    assert checkpoint.load(tmp_path, others, other_optimizers) == (3, {"loss": 0.1})
    x = torch.randn(5, 3)
    for model, optimizer in ((modules["policy"], optimizers["policy"]), (others["policy"], other_optimizers["policy"])):
        model(x).square().sum().backward()
        optimizer.step()
    assert torch.equal(modules["policy"].weight, others["policy"].weight)
    assert torch.equal(modules["policy"].bias, others["policy"].bias)


def test_the_state_is_restored_to_the_last_bit(tmp_path: Path) -> None:
    modules, optimizers = stepped(0)
    metrics = {"a": 0.1 + 0.2, "b": 1e-300, "c": -0.0}
    checkpoint.save(tmp_path, modules, optimizers, 1, metrics)
    assert checkpoint.load(tmp_path, modules, optimizers)[1] == metrics


def test_an_optimizer_that_made_no_step_can_be_saved(tmp_path: Path) -> None:
    modules, optimizers = stepped(0, steps=0)
    checkpoint.save(tmp_path, modules, optimizers, 1, {})
    assert checkpoint.load(tmp_path, *stepped(1, steps=0)) == (1, {})


def test_the_last_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    """By number: update-10 is newer than update-9."""
    modules, optimizers = stepped(0)
    for update in (8, 9, 10):
        checkpoint.save(tmp_path, modules, optimizers, update, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["update-10", "update-9"]
    assert checkpoint.load(tmp_path, modules, optimizers)[0] == 10


def test_a_partial_checkpoint_is_not_read(tmp_path: Path) -> None:
    modules, optimizers = stepped(0)
    checkpoint.save(tmp_path, modules, optimizers, 1, {})
    (tmp_path / ".update-2").mkdir()
    (tmp_path / ".update-2" / "policy.safetensors").write_bytes(b"half")
    assert checkpoint.load(tmp_path, modules, optimizers)[0] == 1
    checkpoint.save(tmp_path, modules, optimizers, 2, {})
    assert checkpoint.load(tmp_path, modules, optimizers)[0] == 2


def test_an_existing_checkpoint_of_the_same_update_is_replaced(tmp_path: Path) -> None:
    for seed in (0, 1):
        modules, optimizers = stepped(seed)
        checkpoint.save(tmp_path, modules, optimizers, 1, {"seed": seed})
    assert json.loads((tmp_path / "update-1" / "state.json").read_text())["state"] == {"seed": 1}


def test_without_a_checkpoint_training_starts_at_zero(tmp_path: Path) -> None:
    modules, optimizers = stepped(0)
    before = weights(modules["policy"])
    assert checkpoint.load(tmp_path / "nowhere", modules, optimizers) == (0, {})
    assert all(torch.equal(value, before[name]) for name, value in weights(modules["policy"]).items())


def test_only_the_adapter_of_an_adapted_policy_is_saved(tokenizer: Any, tmp_path: Path) -> None:
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = get_peft_model(new_policy(tokenizer), lora)
    optimizer = AdamW(checkpoint.trainable(policy).values())
    checkpoint.save(tmp_path, {"policy": policy}, {"policy": optimizer}, 1, {})
    saved = load_file(tmp_path / "update-1" / "policy.safetensors")
    assert saved
    assert all("lora_" in name for name in saved)
    assert sum(value.numel() for value in saved.values()) < sum(p.numel() for p in policy.parameters()) / 4


def test_tied_weights_are_saved_once(tokenizer: Any, tmp_path: Path) -> None:
    policy = new_policy(tokenizer)
    policy.lm_head.weight = policy.model.embed_tokens.weight
    optimizer = AdamW(policy.parameters())
    checkpoint.save(tmp_path, {"policy": policy}, {"policy": optimizer}, 1, {})
    policy.lm_head.weight.data.zero_()
    checkpoint.load(tmp_path, {"policy": policy}, {"policy": optimizer})
    assert policy.lm_head.weight.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_type_of_the_weights_is_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    model = nn.Linear(3, 2).to(dtype)
    optimizer = AdamW(model.parameters())
    model(torch.ones(1, 3, dtype=dtype)).sum().backward()
    optimizer.step()
    before = weights(model)
    checkpoint.save(tmp_path, {"policy": model}, {"policy": optimizer}, 1, {})
    model.weight.data.zero_()
    checkpoint.load(tmp_path, {"policy": model}, {"policy": optimizer})
    assert torch.equal(model.weight, before["weight"])
    assert model.weight.dtype is optimizer.state[model.weight]["exp_avg"].dtype is dtype


def test_a_corrupted_checkpoint_is_skipped_for_the_previous_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for update in (1, 2):
        modules, optimizers = stepped(update)
        checkpoint.save(tmp_path, modules, optimizers, update, {"update": update})
        if update == 1:
            expected = weights(modules["policy"])
    file = tmp_path / "update-2" / "policy_optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    others = stepped(9, steps=0)
    assert checkpoint.load(tmp_path, *others) == (1, {"update": 1})
    assert torch.equal(others[0]["policy"].weight, expected["weight"])
    assert capsys.readouterr().out == (
        "ppo: update-2 is corrupted (policy_optimizer.safetensors does not match its checksum), so update-1 is used\n"
    )


def test_a_state_that_was_tampered_with_is_not_read(tmp_path: Path) -> None:
    modules, optimizers = stepped(0)
    checkpoint.save(tmp_path, modules, optimizers, 1, {"rollbacks": 0})
    state = tmp_path / "update-1" / "state.json"
    state.write_text(state.read_text().replace("0", "7"))
    before = weights(modules["policy"])
    with pytest.raises(RunError, match=r"update-1: state.json does not match its checksum"):
        checkpoint.load(tmp_path, modules, optimizers)
    assert torch.equal(modules["policy"].weight, before["weight"])


def numbers(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("update-")) for path in folder.iterdir())


def test_healthy_checkpoints_around_the_refuge_are_kept(tmp_path: Path) -> None:
    """Saved at every update, with a refuge five updates back, like the sentinel's window; unhealthy from 14 on."""
    modules, optimizers = stepped(0)
    kept = {}
    for update in range(18):
        checkpoint.save(tmp_path, modules, optimizers, update, {"healthy": update < 14}, refuge=update - 5)
        kept[update] = numbers(tmp_path)
    assert kept[4] == [0, 3, 4]
    assert kept[6] == [*kept[7][:2], 5, 6] == [0, 3, 5, 6]
    assert all(len(found) <= 4 for found in kept.values())
    for update in range(8, 18):
        refuge = checkpoint.healthy(tmp_path, 12) if update == 17 else None
        assert kept[update][0] <= update - 5
        assert update - kept[update][0] <= 12
    assert int(refuge.name.removeprefix("update-")) == kept[17][0]


def test_only_intact_and_healthy_checkpoints_are_a_refuge(tmp_path: Path) -> None:
    modules, optimizers = stepped(0)
    assert checkpoint.healthy(tmp_path, 9) is None
    checkpoint.save(tmp_path, modules, optimizers, 3, {"healthy": False})
    assert checkpoint.healthy(tmp_path, 9) is None
    checkpoint.save(tmp_path, modules, optimizers, 4, {"healthy": True})
    assert checkpoint.healthy(tmp_path, 3) is None
    assert checkpoint.healthy(tmp_path, 4).name == "update-4"
    (tmp_path / "update-4" / "policy.safetensors").unlink()
    assert checkpoint.healthy(tmp_path, 9) is None


def test_saving_an_update_deletes_later_checkpoints(tmp_path: Path) -> None:
    """They are corrupted, or belong to updates that were rolled back, and would count as newer."""
    modules, optimizers = stepped(0)
    for update in (4, 6, 5):
        checkpoint.save(tmp_path, modules, optimizers, update, {})
    assert numbers(tmp_path) == [4, 5]
    checkpoint.discard_after(tmp_path, 4)
    assert numbers(tmp_path) == [4]
