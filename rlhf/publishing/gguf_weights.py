"""Weights and hyperparameters of a language model as a GGUF file, the format of llama.cpp, Ollama and LM Studio.

Names and orders of rows are in gguf_layout.py; keys and types are those of llama.cpp's converter (conversion/).
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from rlhf.config import Quantization
from rlhf.errors import ModelError
from rlhf.publishing.gguf_layout import ARCHITECTURES, Names, library

FLOATS = (Quantization.f32, Quantization.f16, Quantization.bf16)
BLOCK = 32  # weights of a row that share a scale in the other types
WHOLE = ("token_embd.weight", "output.weight")  # 8 bits in the types with fewer, since each token depends on one row
ROTARY = ("default", "llama3")
QWEN3_HEAD = 128  # the only size of a Qwen 3 head that transformers' reader knows
GPT2_POSITIONS = 1024  # the only number of GPT-2's positions that transformers' reader knows
POSITIONS = "position_embd.weight"  # always f32, as in llama.cpp's converter
ACTIVATIONS = {"gpt2": ("gelu_new", "gelu_pytorch_tanh"), "gpt_neox": ("gelu", "gelu_new", "gelu_pytorch_tanh")}


def check(named: str, config: PretrainedConfig) -> None:
    """Check that a model can be written, before its weights are loaded.

    Raises:
        ModelError: a part of its architecture is not supported, or could not be read back.
    """
    instead = "use stage.format=merged, and llama.cpp's own converter"
    if config.model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"{named} is of the architecture {config.model_type}, and {known} can be written: {instead}")
    act = config.activation_function if config.model_type == "gpt2" else config.hidden_act
    known = ACTIVATIONS.get(config.model_type, ("silu",))
    if act not in known:
        raise ModelError(
            f"{named} has the activation {act}, and ggml's {config.model_type} computes {known[0]}: {instead}"
        )
    if odd := oddity(config):
        raise ModelError(f"{named} has {odd} that transformers does not read from GGUF: {instead}")
    if (kind := rotary(config).get("rope_type", "default")) not in rotary_kinds(config):
        raise ModelError(f"{named} has rotary embeddings of the type {kind}, which are not written: {instead}")


def oddity(config: PretrainedConfig) -> str | None:
    """Return the part of an architecture that a GGUF file has no place for, or that transformers does not read."""
    if config.model_type == "gpt2":
        usual = config.n_inner in (None, 4 * config.n_embd) and config.scale_attn_weights
        usual = usual and not (config.scale_attn_by_inverse_layer_idx or config.add_cross_attention)
        return None if usual and config.n_positions == GPT2_POSITIONS else "attention, layers or positions"
    if config.model_type == "gpt_neox":
        return None if config.attention_bias else "attention without biases"
    biased = any(getattr(config, name, False) for name in ("attention_bias", "mlp_bias"))
    size = config.model_type == "qwen3" and head_size(config) != QWEN3_HEAD
    return "biases or a head size" if biased or size else None


def rotary_kinds(config: PretrainedConfig) -> tuple[str, ...]:
    """Return the types of rotary embeddings that are written."""
    return ROTARY[:1] if config.model_type == "gpt_neox" else ROTARY


def rotary(config: PretrainedConfig) -> dict[str, Any]:
    """Return the parameters of the rotary embeddings."""
    return getattr(config, "rope_parameters", None) or {}


def head_size(config: PretrainedConfig) -> int:
    """Return the dimensions of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def context_length(config: PretrainedConfig) -> int:
    """Return the tokens that the model can attend to; ggml's llama and qwen have no sliding window."""
    window = getattr(config, "sliding_window", None)
    return min(config.max_position_embeddings, window or config.max_position_embeddings)


def new_writer(path: Path, config: PretrainedConfig, name: str, quantization: Quantization) -> Any:
    """Return a writer of the file ``path`` with the hyperparameters of a model."""
    gguf = library()
    writer = gguf.GGUFWriter(path, ARCHITECTURES[config.model_type])
    writer.add_name(name)
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", 4 * config.hidden_size))
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        add_rotary(writer, config)
    most = "ALL" if quantization is Quantization.f32 else "MOSTLY"
    writer.add_file_type(gguf.LlamaFileType[f"{most}_{quantization.value.upper()}"])
    if quantization not in FLOATS:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    return writer


def add_rotary(writer: Any, config: PretrainedConfig) -> None:
    """Add the hyperparameters of architectures with rotary embeddings."""
    size = head_size(config)
    writer.add_rope_dimension_count(int(rotary(config).get("partial_rotary_factor", 1) * size))
    writer.add_rope_freq_base(float(rotary(config).get("rope_theta", 10000.0)))
    if config.model_type == "gpt_neox":
        writer.add_parallel_residual(config.use_parallel_residual)
        writer.add_layer_norm_eps(config.layer_norm_eps)
        return
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def add_weights(writer: Any, model: Any, quantization: Quantization) -> list[str]:
    """Add the weights of ``model``; return the tensors that are f16 instead, since blocks need rows of 32 n weights.

    Vectors stay in f32, as in llama.cpp's converter.

    Raises:
        ModelError: a weight has no name in GGUF, or is beyond the range of f16.
    """
    return [name for weight in named_weights(model) for name in add(writer, *weight, quantization)]


def add(writer: Any, name: str, tensor: Tensor, quantization: Quantization) -> list[str]:
    """Add one tensor in float32; return its name if it is f16 instead of in blocks, else nothing.

    Raises:
        ModelError: the weight is beyond the range of f16.
    """
    gguf = library()
    kind, blocks = gguf.GGMLQuantizationType[quantization.value.upper()], quantization not in FLOATS
    if tensor.ndim == 1 or name == POSITIONS:
        kind = gguf.GGMLQuantizationType.F32
    elif blocks and tensor.shape[-1] % BLOCK:
        kind = gguf.GGMLQuantizationType.F16
    elif blocks and name in WHOLE:
        kind = gguf.GGMLQuantizationType.Q8_0
    if kind is gguf.GGMLQuantizationType.F16 and tensor.abs().max() > torch.finfo(torch.float16).max:
        raise ModelError(f"{name} has weights beyond the range of f16: set stage.quantization=bf16")
    writer.add_tensor(name, gguf.quants.quantize(tensor.contiguous().numpy(), kind), raw_dtype=kind)
    return [name] if blocks and kind is gguf.GGMLQuantizationType.F16 else []


def finish(writer: Any) -> None:
    """Write the file and close it."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def named_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the GGUF name of each weight and its values in float32; a tied output head is left out except for GPT-NeoX.

    Raises:
        ModelError: a weight has no name in GGUF.
    """
    config, names = model.config, Names(model.config)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for name, value in model.state_dict().items():
        if not (tied and name == "lm_head.weight" and config.model_type != "gpt_neox"):  # llama.cpp reads it there
            yield names(name), names.to_ggml(names(name), value.detach().cpu().float())
    if rotary(config).get("rope_type") == "llama3":
        yield "rope_freqs.weight", llama3_factors(rotary(config), head_size(config))


def llama3_factors(rotary: dict[str, Any], size: int) -> Tensor:
    """Return the divisors (d/2,) of the frequencies of Llama 3.1's rotary embeddings.

    Wavelengths above L/low are divided by ``factor``, those below L/high by 1, and between them by an interpolation,
    with L the original context (transformers, modeling_rope_utils).
    """
    frequencies = 1 / rotary["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    wavelengths = 2 * math.pi / frequencies
    low, high, factor = (rotary[key] for key in ("low_freq_factor", "high_freq_factor", "factor"))
    length = rotary["original_max_position_embeddings"]
    smooth = ((length / wavelengths - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).float()
