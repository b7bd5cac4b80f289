"""Names, orientation and order of rows of a model's weights in a GGUF file.

The names are those of the gguf package's map. A weight W of y = W x is stored as (out, in), so GPT-2's, which
transformers keeps as (in, out), are transposed. Rotary embeddings turn pairs of dimensions: transformers pairs i with
i + d/2, ggml's "llama" pairs 2i with 2i + 1, so the rows of its queries and keys are permuted. The rows of GPT-NeoX's
joint matrix are query, key and value of each head in turn; ggml has all queries first, then keys, then values.
"""

from types import ModuleType

import torch
from torch import Tensor
from transformers import PretrainedConfig

from rlhf.errors import ConfigError, ModelError

# transformers' -> ggml's
ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gpt2": "gpt2", "gpt_neox": "gptneox",
}  # fmt: skip
TRANSPOSED = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")  # of GPT-2


def library() -> ModuleType:
    """Return the gguf package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import gguf  # an extra
    except ImportError:
        raise ConfigError("stage.format=gguf and ollama need the gguf package: pip install 'rlhf[gguf]'") from None
    return gguf


class Names:
    """The GGUF names of a model's weights, and the order of their rows."""

    def __init__(self, config: PretrainedConfig):
        gguf, self.config = library(), config
        self.architecture = ARCHITECTURES[config.model_type]
        kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == self.architecture)
        self._names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)

    def __call__(self, name: str) -> str:
        """Return the GGUF name of a weight.

        Raises:
            ModelError: it has no name in GGUF.
        """
        found = self._names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            kind = self.config.model_type
            raise ModelError(f"the weights {name} of a {kind} have no name in GGUF: use stage.format=merged")
        return found

    def to_ggml(self, name: str, tensor: Tensor) -> Tensor:
        """Return the weight with the GGUF name ``name`` as ggml stores it."""
        return self.rows_to_ggml(name, tensor.T if self._transposed(name) else tensor)

    def from_ggml(self, name: str, tensor: Tensor) -> Tensor:
        """Return the weight with the GGUF name ``name`` as transformers stores it."""
        order = self._order(name, len(tensor))
        found = tensor if order is None else tensor[order.argsort()]
        return found.T if self._transposed(name) else found

    def rows_to_ggml(self, name: str, tensor: Tensor) -> Tensor:
        """Return the rows (out, ...) of the weight ``name`` in ggml's order."""
        order = self._order(name, len(tensor))
        return tensor if order is None else tensor[order]

    def _transposed(self, name: str) -> bool:
        return self.architecture == "gpt2" and name.endswith(".weight") and name.split(".")[-2] in TRANSPOSED

    def _order(self, name: str, rows: int) -> Tensor | None:
        """Return the index in transformers of each row in ggml, or None if the orders are equal."""
        part, heads = name.split(".")[-2], self.config.num_attention_heads
        if self.architecture == "gptneox" and part == "attn_qkv":
            return torch.arange(rows).reshape(heads, 3, -1).swapaxes(0, 1).flatten()
        if self.architecture == "llama" and part in ("attn_q", "attn_k"):
            heads = heads if part == "attn_q" else self.config.num_key_value_heads
            return torch.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).flatten()
        return None
