"""States below all adapters: passes that start from them equal whole passes, in numbers and gradients."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlhf.config import Settings
from rlhf.errors import ConfigError
from rlhf.modeling import adapters, forward
from rlhf.modeling.architectures import KNOWN
from rlhf.modeling.frozen_layers import layers_of, starting_from, states_after, unchanged
from tests.preference import alike

LORA = ("adapter=lora", "adapter.rank=2")


def adapted(settings: Callable[..., Settings], kind: str, *overrides: str) -> Any:
    own = settings("dpo", *LORA, *overrides).adapter
    model = adapters.adapt(alike.tiny(kind, num_hidden_layers=3), own, adapters.TaskType.CAUSAL_LM)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    return model.eval()


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")  # of peft, for GPT-2
@pytest.mark.parametrize("kind", KNOWN)
def test_a_pass_from_the_states_is_the_whole_pass(settings: Callable[..., Settings], kind: str) -> None:
    model = adapted(settings, kind, "adapter.layers=1")
    plain = forward.causal_of(model)
    ids = torch.randint(2, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    assert unchanged(model, plain) == 2
    states = states_after(plain, 2, input_ids=ids)
    calls: list[int] = []
    for number, layer in enumerate(layers_of(plain)):
        layer.register_forward_hook(lambda *_, number=number: calls.append(number))
    found = []
    for known in (None, states):
        with starting_from(plain, known, 2):
            logits = model(input_ids=ids, use_cache=False).logits
        logits.square().sum().backward()
        grads = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
        found.append((logits.detach(), grads))
        model.zero_grad()
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1].keys() == found[1][1].keys() != set()
    for name, grad in found[0][1].items():
        torch.testing.assert_close(grad, found[1][1][name])
    with model.disable_adapter():
        assert unchanged(model, plain) == 2
    assert all("forward" not in vars(layer) for layer in layers_of(plain))


def test_layers_that_train_or_have_an_adapter_are_not_skipped(settings: Callable[..., Settings]) -> None:
    whole = alike.tiny("llama", num_hidden_layers=3)
    assert unchanged(whole, whole) == 0
    frozen = whole.requires_grad_(False)
    assert unchanged(frozen, frozen) == 2  # the last layer always remains
    frozen.get_input_embeddings().requires_grad_(True)
    assert unchanged(frozen, frozen) == 0
    every = adapted(settings, "llama").requires_grad_(False)
    assert unchanged(every, forward.causal_of(every)) == 0  # its adapter is active, although nothing is trained


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
def test_only_upper_layers_have_an_adapter(settings: Callable[..., Settings]) -> None:
    def names(*overrides: str) -> set[str]:
        model = adapted(settings, "llama", *overrides)
        return {name for name, value in model.named_parameters() if value.requires_grad}

    every, upper = names(), names("adapter.layers=2")
    assert upper == {name for name in every if ".layers.0." not in name} < every
    assert names("adapter.layers=3") == every
    queries = names("adapter.layers=1", "adapter.target_modules=[q_proj]")
    assert {name.rsplit(".", 3)[0] for name in queries} == {"base_model.model.model.layers.2.self_attn.q_proj"}
    with pytest.raises(ConfigError, match=r"adapter.layers=4 exceeds the 3 layers of the model: lower it"):
        names("adapter.layers=4")
    adapter = replace(settings("dpo", *LORA).adapter, layers=2)
    assert adapters.lora(adapter, adapters.TaskType.CAUSAL_LM, alike.tiny("gpt2", num_hidden_layers=3)) is not None
