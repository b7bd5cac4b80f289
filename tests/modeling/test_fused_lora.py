"""Adapters computed with their matrix: outputs and gradients are peft's, and peft does what is left to it."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from rlhf.modeling import fused_lora
from rlhf.modeling.fused_lora import fuse
from tests.ppo import conftest
from tests.ppo.conftest import new_policy

tokenizer = conftest.tokenizer  # the fixture

IDS = torch.arange(2, 38).view(3, 12)


def adapted(tokenizer: Any, **options: Any) -> tuple[Any, Any]:
    """The same model twice, with two adapters that have learned something; the second is fused."""
    torch.manual_seed(4)
    lora = LoraConfig(r=3, lora_alpha=5, target_modules="all-linear", task_type="CAUSAL_LM", **options)
    model = get_peft_model(new_policy(tokenizer), lora)
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    fused = copy.deepcopy(model.eval())
    fuse(fused)
    return model, fused


def both(models: tuple[Any, Any]) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    found = []
    for model in models:
        model.zero_grad()
        logits = model(input_ids=IDS).logits
        logits.float().log_softmax(-1)[..., 7].sum().backward()
        gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        found.append((logits.detach(), gradients))
    return found


def alike(models: tuple[Any, Any], **tolerance: float) -> dict[str, torch.Tensor]:
    (logits, gradients), (fused, made) = both(models)
    assert torch.allclose(logits, fused, **tolerance)
    assert set(gradients) == set(made)
    for name, gradient in gradients.items():
        assert torch.allclose(made[name], gradient, rtol=1e-4, atol=1e-4), name
    return made


def wear(models: tuple[Any, Any], names: list[str]) -> None:
    for model in models:
        model.base_model.set_adapter(names)


def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each product with a summed matrix was over."""
    seen: list[int] = []
    plain = fused_lora._Sum.apply
    monkeypatch.setattr(fused_lora._Sum, "apply", lambda x, *rest: (seen.append(len(x)), plain(x, *rest))[1])
    return seen


@pytest.mark.parametrize("names", [["default"], ["default", "second"]])
def test_outputs_and_gradients_are_pefts(tokenizer: Any, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    models, seen = adapted(tokenizer), calls(monkeypatch)
    wear(models, names)
    made = alike(models, atol=1e-4)
    assert set(seen) == {IDS.numel()}
    assert any("second" in name for name in made) is (len(names) == 2)
    assert all("lora_" in name for name in made)


def test_a_frozen_adapter_hands_gradients_on_and_has_none(tokenizer: Any) -> None:
    models = adapted(tokenizer)
    wear(models, ["default", "second"])
    for model in models:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("second" in name and "lora_" in name)
    assert all("second" in name for name in alike(models, atol=1e-4))


@torch.no_grad()
def test_few_tokens_are_computed_without_the_sum(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, fused = adapted(tokenizer)
    seen = calls(monkeypatch)
    ids = IDS[:1, :2]
    assert torch.allclose(fused(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-4)
    assert not seen


@torch.no_grad()
def test_switched_off_it_is_only_the_model(tokenizer: Any) -> None:
    _, fused = adapted(tokenizer)
    with fused.disable_adapter():
        assert torch.equal(fused(input_ids=IDS).logits, new_policy(tokenizer)(input_ids=IDS).logits)
    assert not torch.allclose(fused(input_ids=IDS).logits, new_policy(tokenizer)(input_ids=IDS).logits, atol=1e-2)


@pytest.mark.parametrize("how", ["half precision", "weight-decomposed", "merged"])
def test_what_would_not_be_the_same_is_left_to_peft(tokenizer: Any, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models = adapted(tokenizer, use_dora=how == "weight-decomposed")
    seen = calls(monkeypatch)
    if how == "half precision":
        for model in models:
            model.bfloat16()
    if how == "merged":
        for model in models:
            model.merge_adapter()
    with torch.no_grad():
        found = [model(input_ids=IDS).logits for model in models]
    assert torch.equal(*found)
    assert not seen
