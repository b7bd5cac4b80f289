"""Decoding by our own loop: transformers' tokens, and nothing in a row that depends on what is beside it."""

import copy
import inspect
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BambaConfig,
    BambaForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from rlhf.errors import ModelError
from rlhf.modeling import decoding
from rlhf.modeling.decoding import cache_argument, check, draw, groups
from rlhf.modeling.generation import sample, sample_ids, seeded
from rlhf.modeling.segment_attention import attending
from tests.fake_gpu import GPU, Device

VOCABULARY, END, PAD = 24, 1, 0
DECODER = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8,
    "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.4,
}  # fmt: skip
SPECIAL = {"bos_token_id": None, "eos_token_id": END, "pad_token_id": PAD}
KINDS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**DECODER, **SPECIAL)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**DECODER, **SPECIAL)),
    "sliding": lambda: MistralForCausalLM(MistralConfig(**DECODER, **SPECIAL, sliding_window=4)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, initializer_range=0.4, **SPECIAL)
    ),
}
ROWS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15, 16], [8], [17, 18, 19, 20], [3, 4], [21, 22, 23, 5, 6, 7, 8]]


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(2)
    return KINDS[request.param]().eval()


def ends_of(model: Any) -> set[int]:
    """Frequent enough that rows end at different times."""
    tokens = [token for row in sample_ids(model, ROWS, {END}, PAD, 12, 0.0) for token in row[3:]]
    return {END, max(set(tokens), key=tokens.count)}


def theirs(model: Any, row: list[int], ends: set[int], length: int) -> list[int]:
    plain = GenerationConfig(max_new_tokens=length, do_sample=False, eos_token_id=sorted(ends), pad_token_id=PAD)
    return model.generate(torch.tensor([row]), generation_config=plain)[0, len(row) :].tolist()


def test_greedy_is_what_transformers_generates(model: Any) -> None:
    ends = ends_of(model)
    found = sample_ids(model, ROWS, ends, PAD, 12, 0.0)
    assert found == [theirs(model, row, ends, 12) for row in ROWS]
    assert len({len(row) for row in found}) > 1


@torch.no_grad()
def test_logprobs_are_those_of_a_full_pass(model: Any) -> None:
    with seeded(1):
        found = sample(model, ROWS, ends_of(model), PAD, 12, 0.7)
    for row, (ids, logprobs, _) in zip(ROWS, found, strict=True):
        logp = torch.log_softmax(model(torch.tensor([row + ids])).logits[0, len(row) - 1 : -1] / 0.7, -1)
        assert logprobs == pytest.approx(logp.gather(1, torch.tensor(ids)[:, None])[:, 0].tolist(), abs=1e-5)


@pytest.mark.parametrize("at_once", [1, 3, None])
@pytest.mark.parametrize(("full", "read"), [(0.0, 4096), (1.0, 4096), (0.75, 4)])
def test_what_else_is_in_the_batch_changes_no_response(
    model: Any, at_once: int | None, full: float, read: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that end are dropped never, at once, or as usual; prompts are read together, or few at a time."""
    ends = ends_of(model)
    with seeded(7):
        expected = [sample(model, ROWS, ends, PAD, 12, 1.0)]
        torch.manual_seed(7)
        monkeypatch.setattr(decoding, "FULL", full)
        monkeypatch.setattr(decoding, "READ_AT_ONCE", read)
        found = sample(model, ROWS, ends, PAD, 12, 1.0, at_once=at_once)
    assert [row.ids for row in found] == [row.ids for row in expected[0]]
    for one, other in zip(found, expected[0], strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


@pytest.mark.parametrize("piece", [1, 3, 4, 64])
def test_a_followed_prompt_is_read_in_pieces(model: Any, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same tokens and log-probabilities as in one pass; models with other caches read it in one."""
    row, seen, widths = list(range(5, 17)), [], []
    [expected] = sample(model, [row], {END}, PAD, 8, 0.0)
    monkeypatch.setattr(decoding, "PIECE", piece)
    forward = decoding.Decoding._forward

    def noted(self: Any, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        widths.append(ids.shape[1])
        return forward(self, ids, *rest)

    monkeypatch.setattr(decoding.Decoding, "_forward", noted)
    [found] = sample(model, [row], {END}, PAD, 8, 0.0, follow=lambda number, token: seen.append(token))
    assert found.ids == expected.ids == seen
    torch.testing.assert_close(torch.tensor(found.logprobs), torch.tensor(expected.logprobs), atol=1e-5, rtol=0)
    assert sum(widths) == len(row) + len(seen) - 1
    whole = hasattr(model.config, "sliding_window") and model.config.sliding_window == 4
    assert max(widths) == (len(row) if whole else min(piece, len(row)))


def test_equal_prompts_are_read_once_and_answered_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    model, read = KINDS["llama"]().eval(), []
    forward = model.forward

    def counted(input_ids: torch.Tensor, **inputs: Any) -> Any:
        read.append(input_ids.shape)
        return forward(input_ids=input_ids, **inputs)

    monkeypatch.setattr(model, "forward", counted)
    monkeypatch.setattr(decoding.inspect, "signature", lambda _: SIGNATURE)
    with seeded(0):
        found = sample(model, [ROWS[2]] * 6, {END}, PAD, 4, 1.0)
    assert read[0] == (1, len(ROWS[2]))
    assert read[1] == (6, 1)
    assert len({tuple(row.ids) for row in found}) > 3


SIGNATURE = decoding.inspect.signature(LlamaForCausalLM.forward)


def test_rows_that_have_ended_are_computed_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    model, sizes = KINDS["llama"]().eval(), []
    ends = ends_of(model)
    expected = sample_ids(model, ROWS, ends, PAD, 12, 0.0)
    step = decoding.Decoding._forward

    def noted(self: Any, ids: torch.Tensor, *rest: Any) -> Any:
        sizes.append(len(ids))
        return step(self, ids, *rest)

    monkeypatch.setattr(decoding, "FULL", 0.99)
    monkeypatch.setattr(decoding.Decoding, "_forward", noted)
    assert sample_ids(model, ROWS, ends, PAD, 12, 0.0) == expected
    steps = max(map(len, expected)) - 1
    assert sizes[-steps:] == [sum(len(row) > t for row in expected) for t in range(1, steps + 1)]


@pytest.mark.parametrize("shares", [False, True])
def test_the_host_does_not_wait_for_a_gpu_at_every_token(shares: bool) -> None:
    """It looks at the rows that have ended once for 16 tokens; the tokens are those of the CPU."""
    torch.manual_seed(2)
    model, rows, waits = KINDS["llama"]().eval(), [*ROWS, *ROWS], []
    ends = ends_of(model)
    with attending([model] if shares else []):
        with seeded(1):
            expected = sample(model, rows, ends, PAD, 40, 1.0)
        with Device() as device:
            moved = copy.deepcopy(model).to(GPU)
            with seeded(1):
                found = sample(moved, rows, ends, PAD, 40, 1.0)
            for length in (2, 10, 34):
                before = device.reads.total()
                sample(moved, rows, set(), PAD, length, 1.0)
                waits.append(device.reads.total() - before)
    assert [row.ids for row in found] == [row.ids for row in expected]
    assert len({len(row.ids) for row in found}) > 2
    assert waits[0] == waits[1] == waits[2] - 2


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    """Chi-square of twenty thousand draws, in five deviations; a token at -inf is never drawn, nor at the bounds."""
    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(0))
    logits[[0, 7, VOCABULARY - 1]] = -math.inf
    draws = 20000
    uniforms = 1 - torch.rand(draws, generator=torch.Generator().manual_seed(1))
    uniforms[0], uniforms[1] = 1.0, 2.0**-24
    drawn, logp = draw(logits.expand(draws, -1), uniforms, 0.7)
    p = torch.softmax(logits.double() / 0.7, -1)
    counts = torch.bincount(drawn, minlength=VOCABULARY).double()
    cells = p > 0
    assert counts[~cells].sum() == 0
    chi_square = ((counts - draws * p)[cells] ** 2 / (draws * p)[cells]).sum().item()
    freedom = int(cells.sum()) - 1
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5
    assert torch.allclose(logp, p.log().float()[drawn], atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=40).map(sorted), st.integers(1, 300))
def test_groups_have_every_row_once_within_the_bound(lengths: list[int], most: int) -> None:
    found = list(groups(lengths, most))
    assert [i for part in found for i in part] == list(range(len(lengths)))
    for part in found:
        assert len(part) == 1 or len(part) * lengths[part[-1]] <= most


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_cache_is_passed_by_the_name_that_the_model_has(name: str) -> None:
    torch.manual_seed(2)
    model = KINDS["llama"]().eval()
    expected, forward, seen = sample_ids(model, ROWS, {END}, PAD, 6, 0.0), model.forward, []

    def own(input_ids: torch.Tensor, position_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **given):
        seen.append(set(given))
        return forward(input_ids, attention_mask, position_ids, **{cache_argument(model.base_model): given[name]})

    parameters = [*inspect.signature(own).parameters.values()][:-1]
    named = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
    own.__signature__ = inspect.Signature([*parameters, named, inspect.Parameter("use_cache", named.kind)])
    model.forward = own
    assert sample_ids(model, ROWS, {END}, PAD, 6, 0.0) == expected
    assert seen
    assert all(names == {name, "use_cache"} for names in seen)


def recurrent(kind: str) -> Any:
    """A tiny model with a recurrent layer and one of attention, with weights that are not small."""
    sizes: dict[str, Any] = DECODER | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
    if kind == "RecurrentGemma":
        config: Any = RecurrentGemmaConfig(**sizes, **SPECIAL, lru_width=16, block_types=["recurrent", "attention"])
        model: Any = RecurrentGemmaForCausalLM(config)
    elif kind == "Bamba":
        mamba = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
        model = BambaForCausalLM(BambaConfig(**sizes, **SPECIAL, **mamba, attn_layer_indices=[1]))
    else:
        model = Lfm2ForCausalLM(Lfm2Config(**sizes, **SPECIAL, layer_types=["conv", "full_attention"], conv_L_cache=3))
    torch.manual_seed(2)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(0, 0.3)
    return model.eval()


@pytest.mark.parametrize("kind", ["Bamba", "Lfm2"])
def test_recurrent_states_in_the_cache_follow_their_rows(kind: str) -> None:
    """Prompts are padded and rows that end leave the batch: each row has the tokens of a separate batch."""
    model = recurrent(kind)
    check(model)
    ends = ends_of(model)
    together = sample_ids(model, ROWS, ends, PAD, 12, 0.0)
    assert together == [sample_ids(model, [row], ends, PAD, 12, 0.0)[0] for row in ROWS]
    assert len({len(row) for row in together}) > 1


def test_recurrent_states_outside_the_cache_are_refused() -> None:
    model = recurrent("RecurrentGemma")
    for refused in (lambda: check(model), lambda: sample_ids(model, ROWS, {END}, PAD, 4, 0.0)):
        with pytest.raises(
            ModelError, match="RecurrentGemmaForCausalLM keeps recurrent states outside of transformers'"
        ):
            refused()


def test_a_model_without_such_a_cache_is_refused() -> None:
    class Recurrent(torch.nn.Module):
        device = torch.device("cpu")
        config = LlamaConfig(**DECODER, **SPECIAL)

        def forward(self, input_ids: torch.Tensor) -> None: ...

    with pytest.raises(ModelError, match="Recurrent reads no cache"):
        sample(Recurrent(), ROWS, {END}, PAD, 4, 1.0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
    mamba = MambaForCausalLM(MambaConfig(**sizes, **SPECIAL))  # its argument is transformers 5.24's ``cache`` too
    with pytest.raises(ModelError, match="MambaForCausalLM reads no cache"):
        sample(mamba, ROWS, {END}, PAD, 4, 1.0)
