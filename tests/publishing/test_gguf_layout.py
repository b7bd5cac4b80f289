from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig, PretrainedConfig

from rlhf.errors import ModelError
from rlhf.publishing.gguf_layout import Names

pytest.importorskip("gguf", reason="an extra: pip install 'rlhf[gguf]'")

SIZES = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
LLAMA = LlamaConfig(**SIZES, num_key_value_heads=1)
NEOX = GPTNeoXConfig(**SIZES)
GPT2 = GPT2Config(n_embd=8, n_layer=1, n_head=2)


def test_queries_and_keys_of_llama_are_pairs() -> None:
    """Worked by hand: a head of four dimensions has its halves (0, 1) and (2, 3), ggml pairs 0 with 2."""
    names, rows = Names(LLAMA), torch.arange(8)[:, None]
    assert names.to_ggml("blk.0.attn_q.weight", rows).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert names.to_ggml("blk.0.attn_k.weight", rows[:4]).flatten().tolist() == [0, 2, 1, 3]
    assert names.to_ggml("blk.0.attn_v.weight", rows[:4]).flatten().tolist() == [0, 1, 2, 3]


def test_queries_keys_and_values_of_gpt_neox_are_apart() -> None:
    """Worked by hand: per head four queries, keys and values; ggml has the queries of both heads first."""
    names, rows = Names(NEOX), torch.arange(24)
    found = [0, 1, 2, 3, 12, 13, 14, 15, 4, 5, 6, 7, 16, 17, 18, 19, 8, 9, 10, 11, 20, 21, 22, 23]
    assert names.to_ggml("blk.0.attn_qkv.bias", rows).tolist() == found
    assert names.to_ggml("blk.0.attn_qkv.weight", rows[:, None]).flatten().tolist() == found


def test_matrices_of_gpt2_are_transposed_and_its_embeddings_are_not() -> None:
    names = Names(GPT2)
    for part, shape in (("attn_qkv", (8, 24)), ("ffn_up", (8, 32)), ("ffn_down", (32, 8)), ("attn_output", (8, 8))):
        assert names.to_ggml(f"blk.0.{part}.weight", torch.zeros(shape)).shape == shape[::-1]
    for name in ("token_embd.weight", "position_embd.weight", "output.weight"):
        assert names.to_ggml(name, torch.zeros(5, 8)).shape == (5, 8)
    assert names.to_ggml("blk.0.attn_qkv.bias", torch.zeros(24)).shape == (24,)


@pytest.mark.parametrize("config", [LLAMA, NEOX, GPT2])
def test_each_way_back_is_the_inverse(config: PretrainedConfig) -> None:
    names, torch_ = Names(config), torch.Generator().manual_seed(0)
    for part in ("attn_q", "attn_k", "attn_qkv", "attn_output", "ffn_up"):
        given: Any = torch.randn(24, 24, generator=torch_)
        there = names.to_ggml(f"blk.0.{part}.weight", given)
        assert torch.equal(names.from_ggml(f"blk.0.{part}.weight", there), given)


def test_a_weight_without_a_name_is_refused() -> None:
    with pytest.raises(ModelError, match="the weights model.extra.weight of a llama have no name in GGUF"):
        Names(LLAMA)("model.extra.weight")
