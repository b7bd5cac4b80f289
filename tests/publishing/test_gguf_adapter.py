from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

pytest.importorskip("gguf", reason="an extra: pip install 'rlhf[gguf]'")

from gguf import GGUFReader

from rlhf.config import Quantization
from rlhf.errors import ConfigError, ModelError
from rlhf.publishing import gguf_adapter
from rlhf.runs.parents import Parent

SIZES = {
    "vocab_size": 40, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip

KINDS: dict[str, Any] = {
    "llama": (LlamaForCausalLM, LlamaConfig), "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "gpt2": (GPT2LMHeadModel, GPT2Config), "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig),
}  # fmt: skip


def new_base(kind: str = "llama") -> Any:
    torch.manual_seed(0)
    model, config = KINDS[kind]
    return model(config(**SIZES)).eval()


def new_adapter(folder: Path, base: Any, **more: Any) -> Any:
    """A saved adapter whose matrices B are not zero."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | more)
    adapted = get_peft_model(base, config)
    torch.manual_seed(1)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapted.save_pretrained(folder)
    return adapted.merge_and_unload().eval()


PATTERNS = {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"up_proj": 3}}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        *((kind, more) for kind in ("llama", "qwen2") for more in ({}, {"use_rslora": True}, PATTERNS)),
        ("gpt2", {"fan_in_fan_out": True}),
        ("gpt_neox", {}),
    ],
)
def test_the_file_and_the_base_are_the_adapted_model(tmp_path: Path, kind: str, more: dict[str, Any]) -> None:
    ours = new_adapter(tmp_path / "adapter", new_base(kind), **more)
    file = tmp_path / "a.gguf"
    assert gguf_adapter.write(file, new_base(kind), tmp_path / "adapter", "title", Quantization.f32) == []
    theirs = gguf_adapter.apply(file, new_base(kind))
    ids = torch.arange(12)[None]
    with torch.no_grad():
        own, read, without = (model(ids).logits for model in (ours, theirs, new_base(kind)))
    torch.testing.assert_close(own, read, atol=1e-5, rtol=1e-5)
    assert (own - without).abs().max() > 0.1


def test_the_file_has_what_llama_cpp_reads(tmp_path: Path) -> None:
    new_adapter(tmp_path / "adapter", new_base())
    file = tmp_path / "a.gguf"
    gguf_adapter.write(file, new_base(), tmp_path / "adapter", "title", Quantization.f16)
    reader = GGUFReader(file)
    found = {name: reader.fields[name].contents() for name in reader.fields if not name.startswith("GGUF.")}
    assert found == {
        "general.architecture": "llama", "general.type": "adapter", "general.name": "title", "adapter.type": "lora",
        "adapter.lora.alpha": 12.0,
    }  # fmt: skip
    shapes = {tensor.name: (tensor.tensor_type.name, [int(size) for size in tensor.shape]) for tensor in reader.tensors}
    assert len(shapes) == 2 * 2 * 7
    assert shapes["blk.0.attn_k.weight.lora_a"] == ("F16", [64, 4])  # ggml's sizes: the last dimension first
    assert shapes["blk.0.attn_k.weight.lora_b"] == ("F16", [4, 32])


def test_matrices_that_q8_0_cannot_hold_are_f16(tmp_path: Path) -> None:
    new_adapter(tmp_path / "adapter", new_base(), target_modules=["v_proj"])
    other = gguf_adapter.write(tmp_path / "a.gguf", new_base(), tmp_path / "adapter", "title", Quantization.q8_0)
    assert other == ["blk.0.attn_v.weight.lora_b", "blk.1.attn_v.weight.lora_b"]


def test_an_adapter_on_another_model_is_refused(tmp_path: Path) -> None:
    new_adapter(tmp_path / "adapter", new_base())
    gguf_adapter.write(tmp_path / "a.gguf", new_base(), tmp_path / "adapter", "title", Quantization.f32)
    torch.manual_seed(0)
    shallow = LlamaForCausalLM(LlamaConfig(**SIZES | {"num_hidden_layers": 1}))
    with pytest.raises(ModelError, match=r"a.gguf adapts blk.1.attn_k.weight.lora_a, which the base does not have"):
        gguf_adapter.apply(tmp_path / "a.gguf", shallow)


@pytest.mark.parametrize("more", [{"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["o_proj"]}])
def test_more_than_two_matrices_per_weight_are_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **more)
    get_peft_model(new_base(), config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="stage.run=x has more than LoRA's two matrices per weight"):
        gguf_adapter.check("stage.run=x", Parent("run", str(tmp_path), None))


def test_whole_weights_are_refused(tmp_path: Path) -> None:
    new_base().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="stage.weights=adapter needs an adapter, and stage.run=x has whole weights"):
        gguf_adapter.check("stage.run=x", Parent("run", str(tmp_path), None))
