"""GPT-NeoX models from GGUF files, which transformers does not read: the model that llama.cpp computes."""

from pathlib import Path
from typing import Any

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from rlhf.errors import ModelError
from rlhf.publishing.gguf_layout import Names, library

ACTIVATION = "gelu_pytorch_tanh"  # of ggml, whatever the model was trained with; GGUF files do not name it
# Names of the configuration -> keys of the file.
KEYS = {
    "vocab_size": "vocab_size", "max_position_embeddings": "context_length", "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length", "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count", "layer_norm_eps": "attention.layer_norm_epsilon",
    "use_parallel_residual": "use_parallel_residual",
}  # fmt: skip


def needed(model_type: str) -> bool:
    """Return whether transformers reads no GGUF files of the architecture."""
    return model_type == "gpt_neox"


def gpt_neox(file: Path) -> Any:
    """Return the model in a GGUF file, in float32, as llama.cpp computes it.

    Raises:
        ModelError: the file lacks a weight.
    """
    gguf = library()
    reader = gguf.GGUFReader(file)
    found = {key: reader.fields[f"gptneox.{name}"].contents() for key, name in KEYS.items()}
    size = found["hidden_size"] // found["num_attention_heads"]
    rope = {
        "rope_type": "default",
        "rope_theta": float(reader.fields["gptneox.rope.freq_base"].contents()),
        "partial_rotary_factor": reader.fields["gptneox.rope.dimension_count"].contents() / size,
    }
    config = GPTNeoXConfig(**found, rope_parameters=rope, hidden_act=ACTIVATION, bos_token_id=None, eos_token_id=None)
    model, names = GPTNeoXForCausalLM(config), Names(config)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    with torch.no_grad():
        for own, weight in model.named_parameters():
            if (name := names(own)) not in tensors:
                raise ModelError(f"{file.name} lacks {name}: run the command again")
            values = gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type)
            weight.copy_(names.from_ggml(name, torch.tensor(values)))
    return model
