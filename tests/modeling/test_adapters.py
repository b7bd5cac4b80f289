from collections.abc import Callable

import pytest
import torch
from transformers import LlamaForCausalLM

from rlhf.config import Settings
from rlhf.errors import ConfigError, ModelError
from rlhf.modeling import adapters
from tests.modeling.test_loading import small
from tests.modeling.test_vocabulary import llama


def test_an_adapter_is_put_on_top_if_one_exists(settings: Callable[..., Settings]) -> None:
    def adapted(*overrides: str) -> torch.nn.Module:
        return adapters.adapt(small(), settings("sft", *overrides).adapter, adapters.TaskType.CAUSAL_LM)

    assert type(adapted("adapter=none")) is LlamaForCausalLM
    names = [name for name, weight in adapted("adapter=lora").named_parameters() if weight.requires_grad]
    assert names
    assert all("lora" in name for name in names)
    with pytest.raises(ConfigError, match=r"adapter.target_modules=\['nope'\] cannot be used \(Target modules"):
        adapted("adapter=lora", "adapter.target_modules=[nope]")


@pytest.mark.parametrize("targets", ["[embed_tokens,q_proj]", "'.*embed_tokens'"])
def test_an_embedding_that_is_the_head_is_no_target(settings: Callable[..., Settings], targets: str) -> None:
    adapter = settings("sft", "adapter=lora", f"adapter.target_modules={targets}").adapter
    with pytest.raises(ConfigError, match=r"names model.embed_tokens, which is tied to the output head"):
        adapters.lora(adapter, adapters.TaskType.CAUSAL_LM, llama(8, tied=True))
    assert adapters.lora(adapter, adapters.TaskType.CAUSAL_LM, llama(8)) is not None


def test_four_bits_need_a_gpu(settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert adapters.quantization(settings("sft", "adapter=lora").adapter) == {}
    with pytest.raises(ModelError, match="adapter=qlora needs a GPU"):
        adapters.quantization(settings("sft", "adapter=qlora").adapter)
