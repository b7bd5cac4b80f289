"""GGUF files of tiny random models: transformers reads the same model from them."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from rlhf.config import Quantization
from rlhf.errors import ModelError
from rlhf.publishing.gguf_weights import add_weights, check, context_length, llama3_factors, new_writer, rotary

gguf = pytest.importorskip("gguf", reason="an extra: pip install 'rlhf[gguf]'")

SIZES = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.3, "max_position_embeddings": 64, "rms_norm_eps": 3e-5,
}  # fmt: skip
GPT2 = {
    "vocab_size": 64, "n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.3, "layer_norm_epsilon": 3e-5,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
KINDS: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "untied llama": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=32)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=128)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
    "untied gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2, tie_word_embeddings=False)),
}


def write(model: Any, path: Path, quantization: Quantization = Quantization.f32) -> list[str]:
    writer = new_writer(path, model.config, "tiny", quantization)
    if model.config.model_type == "gpt2":  # transformers counts its tokens
        writer.add_token_list([str(id) for id in range(64)])
    other = add_weights(writer, model, quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return other


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    found = KINDS[request.param]().eval()
    with torch.no_grad():
        for parameter in found.parameters():  # norms and biases are constant otherwise
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    return found


@torch.no_grad()
def test_transformers_reads_the_same_model(model: Any, tmp_path: Path) -> None:
    check("stage.run=x", model.config)
    write(model, tmp_path / "model.gguf")
    found = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf").eval()
    ids = torch.arange(20)[None] * 3 % 64
    assert torch.allclose(found(ids).logits, model(ids).logits, atol=1e-5)
    assert found.config.max_position_embeddings == context_length(model.config)
    assert found.config.vocab_size == 64


def test_matrices_are_quantized_and_vectors_are_not(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES | {"intermediate_size": 80}, tie_word_embeddings=True))
    other = write(model, tmp_path / "model.gguf", Quantization.q8_0)
    assert other == ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"]  # rows of 80 weights
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert kinds["token_embd.weight"] == kinds["blk.0.attn_q.weight"] == "Q8_0"
    assert kinds["blk.0.ffn_down.weight"] == "F16"
    assert kinds["output_norm.weight"] == "F32"
    assert "output.weight" not in kinds


@pytest.mark.parametrize("bits", [4, 5])
@pytest.mark.parametrize("form", [0, 1])
def test_few_bits_keep_embeddings_and_output_at_eight(tmp_path: Path, bits: int, form: int) -> None:
    """A block is rounded to 2^bits values: the error is at most the largest step, |x| / 2^(bits - 1) of its block."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    assert write(model, tmp_path / "model.gguf", Quantization(f"q{bits}_{form}")) == []
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert kinds["token_embd.weight"] == kinds["output.weight"] == "Q8_0"
    assert kinds["blk.0.attn_q.weight"] == kinds["blk.1.ffn_down.weight"] == f"Q{bits}_{form}"
    found = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf")
    ours, theirs = (one.model.layers[0].mlp.up_proj.weight.detach().reshape(-1, 32) for one in (model, found))
    assert 0 < ((ours - theirs).abs() / ours.abs().amax(1, keepdim=True)).max() <= 1 / 2 ** (bits - 1) * 1.01


def test_positions_of_gpt2_are_never_rounded(tmp_path: Path) -> None:
    write(KINDS["gpt2"](), tmp_path / "model.gguf", Quantization.q8_0)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert kinds["position_embd.weight"] == kinds["blk.0.attn_qkv.bias"] == "F32"
    assert kinds["token_embd.weight"] == kinds["blk.0.attn_qkv.weight"] == "Q8_0"


def test_weights_beyond_f16_are_refused(tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 1e5
    with pytest.raises(ModelError, match="output.weight has weights beyond the range of f16: set stage.quantization"):
        write(model, tmp_path / "model.gguf", Quantization.f16)


def test_llama3_divides_frequencies_as_transformers_does(tmp_path: Path) -> None:
    given = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
             "original_max_position_embeddings": 64}  # fmt: skip
    config = LlamaConfig(**SIZES | {"hidden_size": 256, "max_position_embeddings": 512}, rope_parameters=given)
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1 / 5e5 ** (torch.arange(0, 64, 2) / 64)
    factors = llama3_factors(rotary(config), 64)
    assert torch.allclose(plain / factors, expected, rtol=1e-5)
    assert len(set(factors.tolist())) > 3  # among them interpolated ones
    check("stage.run=x", config)
    write(LlamaForCausalLM(config), tmp_path / "model.gguf")
    names = [tensor.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors]
    assert names.count("rope_freqs.weight") == 1
    assert math.prod(factors.shape) == 32


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (OPTConfig(), "stage.run=x is of the architecture opt, and llama, mistral, qwen2, qwen3, gpt2, gpt_neox can"),
        (GPT2Config(n_positions=128), "stage.run=x has attention, layers or positions that transformers does not read"),
        (GPT2Config(scale_attn_by_inverse_layer_idx=True), "stage.run=x has attention, layers or positions"),
        (GPT2Config(activation_function="relu"), "has the activation relu, and ggml's gpt2 computes gelu_new"),
        (GPTNeoXConfig(attention_bias=False), "stage.run=x has attention without biases that transformers does not"),
        (LlamaConfig(hidden_act="gelu"), "stage.run=x has the activation gelu"),
        (LlamaConfig(attention_bias=True), "stage.run=x has biases or a head size that transformers does not read"),
        (Qwen3Config(head_dim=32), "stage.run=x has biases or a head size that transformers does not read"),
        (
            LlamaConfig(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}),
            "stage.run=x has rotary embeddings of the type yarn, which are not written: use stage.format=merged",
        ),
    ],
)
def test_a_model_that_cannot_be_written_is_refused(config: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check("stage.run=x", config)
