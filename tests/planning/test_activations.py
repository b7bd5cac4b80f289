"""The factors against the tensors that autograd saves."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen3Config,
)

from rlhf.hardware.memory import Shape
from rlhf.planning.activations import GATED, OUTSIDE, Pass, at_work, family_of, fused_head, logits, own_head, tiles
from rlhf.preference.head import score
from rlhf.preference.prefix_sharing import sharing

ROWS, LENGTH, RANK = 3, 40, 8


def config(kind: str, layers: int, hidden: int = 64, inner: int = 192) -> Any:
    if kind == "gpt2":
        sizes = {"n_embd": hidden, "n_inner": inner, "n_layer": layers, "n_head": 4, "n_positions": 64}
        return GPT2Config(vocab_size=50, bos_token_id=0, eos_token_id=0, **sizes)
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 4}
    if kind == "gpt_neox":
        return GPTNeoXConfig(vocab_size=50, max_position_embeddings=64, **sizes)
    made = {"llama": LlamaConfig, "qwen3": Qwen3Config}[kind]
    return made(vocab_size=50, num_key_value_heads=2, head_dim=hidden // 4, **sizes)


def really_kept(one: Any, rank: int | None, dropout: float, checkpointing: bool = False) -> int:
    """Return the bytes that a forward pass in training keeps, without parameters."""
    model = AutoModelForCausalLM.from_config(one)
    if rank is not None:
        options = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
        with pytest.warns() if one.model_type == "gpt2" else contextlib.nullcontext():
            model = get_peft_model(model, LoraConfig(r=rank, lora_dropout=dropout, **options))
    if checkpointing:
        model.gradient_checkpointing_enable()
    ids = torch.randint(0, 50, (ROWS, LENGTH))
    return held(
        model, lambda: model.train()(ids, attention_mask=torch.ones_like(ids), use_cache=False, logits_to_keep=1)
    )


def held(model: torch.nn.Module, call: Callable[[], Any]) -> int:
    """Return the bytes that autograd keeps after ``call``, without parameters."""
    parameters = {value.untyped_storage().data_ptr() for value in model.parameters()}
    seen: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "gpt2", "qwen3"])
@pytest.mark.parametrize(("rank", "dropout"), [(None, 0.0), (RANK, 0.0), (RANK, 0.1)])
@pytest.mark.parametrize(("hidden", "inner"), [(64, 192), (128, 384)])
def test_a_layer_keeps_what_autograd_holds(
    kind: str, rank: int | None, dropout: float, hidden: int, inner: int
) -> None:
    """The difference of one layer agrees with the formula; tensors outside the layers cancel."""
    few, many = (really_kept(config(kind, layers, hidden, inner), rank, dropout) for layers in (1, 2))
    one = config(kind, 1, hidden, inner)
    passing = Pass(family_of(one.model_type), Shape.of(one), 4, rank, 4 if dropout else 0)
    assert (many - few) / (ROWS * LENGTH) == pytest.approx(passing.per_layer(LENGTH), rel=0.025)


def test_by_hand() -> None:
    """h 4, i 8, 2 heads, keys 2, float32: 4 (8·4 + 2·2 + 4·8) + 4·2 + 8 = 288 bytes per token and layer."""
    shape = Shape(layers=3, hidden=4, intermediate=8, heads=2, keys=2, vocabulary=10)
    passing = Pass(GATED, shape, 4)
    assert passing.per_layer(5) == 288
    assert passing.kept(2, 5) == 10 * 3 * 288 + 10 * OUTSIDE * 4 * 4
    half = Pass(GATED, shape, 2)
    assert half.per_layer(5) == 144 + 8 + 2 * 2 * 4  # two tensors of the norms in float32


def test_checkpointing_keeps_the_inputs_and_one_layer() -> None:
    shape = Shape(layers=30, hidden=64, intermediate=192, heads=4, keys=64, vocabulary=50)
    whole, spared = Pass(GATED, shape, 4), Pass(GATED, shape, 4, checkpointing=True)
    outside = OUTSIDE * 120 * 64 * 4
    assert spared.kept(3, 40) == outside + 120 * (30 * 64 * 4 + whole.per_layer(40))
    assert spared.kept(3, 40) < whole.kept(3, 40) / 10


def test_more_tokens_take_more_and_adapters_less() -> None:
    shape = Shape(layers=4, hidden=64, intermediate=192, heads=4, keys=64, vocabulary=50)
    whole, adapters = Pass(GATED, shape, 4), Pass(GATED, shape, 4, rank=2)
    assert whole.kept(3, 80) == 2 * whole.kept(3, 40)
    assert adapters.kept(3, 40) < whole.kept(3, 40)
    assert Pass(GATED, shape, 4, rank=2, mask=4).kept(3, 40) > Pass(GATED, shape, 4, rank=2, mask=1).kept(3, 40)


def test_a_fused_head_works_on_a_tile() -> None:
    shape = Shape(1, 1, 1, 1, 1, 50_000)
    assert fused_head(shape, 10, 4, 8.25, gpu=False) == 10 * 32_768 * 33
    assert fused_head(shape, 10_000, 2, 8.25, gpu=True) == 4_096 * 32_768 * 2
    assert logits(shape, 10, 3) == 10 * 50_000 * 12
    assert at_work(Shape(1, 2, 5, 1, 1, 1), 10, 4) == 10 * 4 * (3 * 2 + 3 * 5)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("layers", [3, 6])
def test_rows_that_share_a_prompt_keep_less(kind: str, layers: int) -> None:
    """A reward model on two pairs: prompts once, no padding, and only the last tokens in the last layer."""
    one = config(kind, layers, 128, 384)
    one.num_labels, one.pad_token_id = 1, 0
    model = AutoModelForSequenceClassification.from_config(one)
    prompt, responses = 24, (20, 16)
    rows = []
    for pair in range(2):
        start = [1 + pair, *range(3, prompt + 2)]
        rows += [[*start, *([30 + number + 5 * pair] * size)] for number, size in enumerate(responses)]
    ids = torch.tensor([row + [0] * (prompt + max(responses) - len(row)) for row in rows])
    with sharing(model):
        found = held(model, lambda: model.train()(input_ids=ids, attention_mask=(ids != 0).long(), use_cache=False))
    tokens, seen = 2 * (prompt + sum(responses)), 2 * (2 * prompt + sum(responses))
    passing = Pass(family_of(kind), Shape.of(one), 4)
    planned = passing.kept(1, tokens) + passing.branching(tokens, seen) - passing.spared(tokens - 4, attention=True)
    assert found == pytest.approx(planned, rel=0.1)
    assert passing.spared(tokens - 4, attention=False) < passing.spared(tokens - 4, attention=True)


@pytest.mark.parametrize("learns", [True, False])
def test_the_head_of_shared_rows(learns: bool) -> None:
    """Logits are kept up to a limit, which is larger if the matrix learns."""
    tokens, vocabulary = 30, 1000
    layer = torch.nn.Linear(8, vocabulary, bias=False).requires_grad_(learns)
    hidden = torch.randn(tokens, 8, requires_grad=True)
    kept = held(layer, lambda: score(layer, hidden, torch.zeros(tokens, dtype=torch.long), ("log_probs",)))
    kept -= tokens * (8 + 4 + 4)  # the targets, the normalizers and the entropies
    kept -= hidden.nbytes if learns else 0
    shape = Shape(1, 8, 1, 1, 1, vocabulary)
    assert own_head(shape, tokens, learns=learns) == kept + tiles(shape) == tokens * vocabulary * 4 + tiles(shape)
    limit = 2**27 if learns else 2**23
    assert own_head(shape, 200_000, learns=learns) == limit // vocabulary * vocabulary * 4 + tiles(shape)
