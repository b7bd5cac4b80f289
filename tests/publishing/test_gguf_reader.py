from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from rlhf.config import Quantization
from rlhf.data.templates import chat_template
from rlhf.errors import ModelError
from rlhf.modeling.from_scratch import new_tokenizer
from rlhf.publishing import certificate, gguf_tokenizer, gguf_weights
from rlhf.publishing.gguf_reader import gpt_neox, needed
from tests.publishing.test_gguf_weights import GPT2, write

gguf = pytest.importorskip("gguf", reason="an extra: pip install 'rlhf[gguf]'")

SIZES = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "initializer_range": 0.3, "max_position_embeddings": 64, "layer_norm_eps": 3e-5, "hidden_act": "gelu_pytorch_tanh",
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


def new(**more: Any) -> Any:
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES | more)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases are constant otherwise
                parameter += 0.2 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"use_parallel_residual": False, "tie_word_embeddings": True},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}},
    ],
)
@torch.no_grad()
def test_the_model_in_the_file_is_the_one_that_was_written(more: dict[str, Any], tmp_path: Path) -> None:
    model, file = new(**more), tmp_path / "model.gguf"
    gguf_weights.check("stage.run=x", model.config)
    write(model, file)
    found, ids = gpt_neox(file).eval(), torch.arange(20)[None] * 3 % 64
    assert torch.allclose(found(ids).logits, model(ids).logits, atol=1e-5)
    assert found.config.max_position_embeddings == 64


@torch.no_grad()
def test_the_file_is_read_with_the_activation_of_ggml(tmp_path: Path) -> None:
    model, file = new(hidden_act="gelu"), tmp_path / "model.gguf"
    write(model, file)
    ids = torch.arange(20)[None]
    assert 0 < (gpt_neox(file).eval()(ids).logits - model(ids).logits).abs().max() < 0.1


def test_a_file_without_a_weight_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gguf_weights.named_weights
    monkeypatch.setattr(gguf_weights, "named_weights", lambda model: (one for one in list(whole(model))[1:]))
    write(new(), tmp_path / "model.gguf", Quantization.f16)
    with pytest.raises(ModelError, match="model.gguf lacks token_embd.weight: run the command again"):
        gpt_neox(tmp_path / "model.gguf")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "pythia"])
def test_llama_cpp_computes_the_same(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    tokenizer = new_tokenizer(["Which tree is the tallest?"] * 9, 300, chat_template("almanac"))
    more = {"vocab_size": len(tokenizer)}
    model = new(**more) if kind == "pythia" else GPT2LMHeadModel(GPT2Config(**GPT2 | more)).eval()
    writer = gguf_weights.new_writer(tmp_path / "model.gguf", model.config, "tiny", Quantization.f32)
    gguf_tokenizer.add_tokenizer(writer, tokenizer, len(tokenizer), gguf_tokenizer.check("stage.run=x", tokenizer))
    gguf_weights.add_weights(writer, model, Quantization.f32)
    gguf_weights.finish(writer)
    rows = certificate.answered(model, [[5, 6, 7, 8], [20, 30]], set(), 0, 12)
    found = certificate.by_llama_cpp(model, (tmp_path / "model.gguf", None), rows, [], False, set(), 12)
    assert found is not None
    assert found.kl_mean < 1e-5
    assert found.same_answer == 1


def test_transformers_reads_the_other_architectures() -> None:
    assert [kind for kind in gguf_weights.ARCHITECTURES if needed(kind)] == ["gpt_neox"]
