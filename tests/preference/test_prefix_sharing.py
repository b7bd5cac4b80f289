"""Compared with plain forward passes of the same model, and with unmodified TRL trainers."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from rlhf.config.stages import LOSSES
from rlhf.errors import TrainingError
from rlhf.modeling import segment_attention as segments
from rlhf.modeling.architectures import KNOWN
from rlhf.preference import rankings
from rlhf.preference.prefix_sharing import Sharing, sharing
from tests.preference import alike

pytestmark = pytest.mark.filterwarnings("ignore:.*use_reentrant.*", "ignore:.*keep_end.*")


def padded(rows: list[list[int]], left: bool = False) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    gaps = [[0] * (longest - len(row)) for row in rows]
    ids = [gap + row if left else row + gap for row, gap in zip(rows, gaps, strict=True)]
    ones = [[1] * len(row) for row in rows]
    mask = [gap + one if left else one + gap for one, gap in zip(ones, gaps, strict=True)]
    return torch.tensor(ids), torch.tensor(mask)


def assert_alike(model: Any, rows: list[list[int]], left: bool = False) -> None:
    """Assert that every row's hidden states are those of the row in a separate pass, and zero at padding."""
    ids, mask = padded(rows, left)
    with torch.no_grad(), Sharing(model):
        found = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    assert not found[mask == 0].any()
    for row, states, seen in zip(rows, found, mask.bool(), strict=True):
        with torch.no_grad():
            plain = model.base_model(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0]
        torch.testing.assert_close(states[seen], plain, atol=3e-5, rtol=3e-5)


PROMPT = list(range(2, 22))
CASES = {
    "pairs": [[*PROMPT, 5, 6], [*PROMPT[::-1], 7], [*PROMPT, 8], [*PROMPT[::-1], 9, 9, 9]],
    "four responses": [[*PROMPT, *[n] * n] for n in range(3, 7)],
    "no common prefix": [[3, 4, 5], [4, 5, 6, 7]],
    "a prefix too short to share": [[3, 4, 5], [3, 4, 6, 7]],
    "identical responses": [[*PROMPT, 5, 6], [*PROMPT, 5, 6]],
    "only the prompt": [PROMPT, [*PROMPT, 5]],
    "truncated inside the prompt": [PROMPT[:12], PROMPT[:12]],
    "responses that begin alike": [[*PROMPT, *PROMPT, 5], [*PROMPT, *PROMPT, 6, 7], [*PROMPT, 3]],
    "one row": [PROMPT],
}


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_hidden_states_are_those_of_single_rows(case: str, left: bool) -> None:
    assert_alike(alike.tiny(), CASES[case], left)


@pytest.mark.parametrize("kind", KNOWN)
def test_hidden_states_are_those_of_single_rows_for_every_architecture(kind: str) -> None:
    heads = {"num_key_value_heads": 4} if kind in ("phi", "gpt_neox") else {}
    assert_alike(alike.tiny(kind, **heads), CASES["pairs"])
    assert_alike(alike.tiny(kind, **heads), CASES["pairs"], left=KNOWN[kind])


@pytest.fixture(scope="module")
def llama() -> Any:
    return alike.tiny()


TOKENS = st.integers(2, alike.VOCABULARY - 1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(TOKENS, min_size=1, max_size=24),
            st.lists(st.lists(TOKENS, max_size=8), min_size=2, max_size=5),
        ),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_hidden_states_are_those_of_single_rows_for_any_groups(
    llama: Any, groups: list, left: bool, random: Any
) -> None:
    """K responses per prompt, the rows in any order."""
    rows = [prompt + response for prompt, responses in groups for response in responses]
    random.shuffle(rows)
    assert_alike(llama, rows, left)


def test_absolute_positions_with_left_padding_are_columns() -> None:
    model = alike.tiny("gpt2")
    ids, mask = padded(CASES["pairs"], left=True)
    plain = model(input_ids=ids, attention_mask=mask).logits
    with Sharing(model):
        shared = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(shared[mask.bool()], plain[mask.bool()])


def test_a_mask_with_holes_takes_the_plain_forward(llama: Any) -> None:
    ids, mask = padded(CASES["pairs"])
    mask[:, 4] = 0
    plain = llama.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    with Sharing(llama):
        shared = llama.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    assert torch.equal(plain[mask.bool()], shared[mask.bool()])


def test_the_prompt_is_computed_once(llama: Any) -> None:
    ids, mask = padded(CASES["four responses"])
    seen = []
    handle = llama.model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[:2]))
    with Sharing(llama):
        llama.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    handle.remove()
    assert seen == [(1, len(PROMPT) + 3 + 4 + 5 + 6)]


def test_removing_it_restores_the_model(llama: Any) -> None:
    before = {name: dict(module.__dict__) for name, module in llama.named_modules()}
    attention = llama.config._attn_implementation
    with Sharing(llama):
        assert llama.config._attn_implementation == segments.NAME
        assert "forward" in llama.base_model.__dict__
    assert llama.config._attn_implementation == attention
    for name, module in llama.named_modules():
        assert module.__dict__.keys() == before[name].keys()


def test_generation_is_unchanged(llama: Any) -> None:
    ids = torch.tensor([PROMPT])
    plain = llama.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
    with Sharing(llama):
        found = llama.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
    assert torch.equal(plain, found)


def test_layers_with_other_attention_are_detected(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, mask = padded(CASES["pairs"])
    attend = llama.model.layers[1].self_attn.forward
    monkeypatch.setattr(
        llama.model.layers[1].self_attn, "forward", lambda *args, segments, **kwargs: attend(*args, **kwargs)
    )
    with Sharing(llama), pytest.raises(TrainingError, match="1 of 2 layers of LlamaForCausalLM attend by segments"):
        llama.base_model(input_ids=ids, attention_mask=mask, use_cache=False)


OPTIONS: dict[str, dict[str, Any]] = {"exo_pair": {"label_smoothing": 0.1}, "robust": {"label_smoothing": 0.1}}


# A square that falls from 50 to a thousandth of it within 50 steps: the rounding error of a difference of numbers near
# 5 is no longer small compared with it.
SMALLEST = {"sppo_hard": 1e-4}


def assert_trained_alike(make: Callable[..., Any], *given: Any, smallest: float = 1e-6, **options: Any) -> None:
    """Assert equal losses, gradients of the first step and evaluation, within 1e-4 relative or ``smallest`` nats."""
    losses, metrics, gradients = alike.trained(make, True, *given, **options)
    plain_losses, plain_metrics, plain_gradients = alike.trained(make, False, *given, **options)
    assert losses == pytest.approx(plain_losses, rel=1e-4, abs=smallest)
    assert metrics == pytest.approx(plain_metrics, rel=1e-3, abs=1e-4)
    assert gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-4 * gradient.abs().max().item() + 1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_dpo_with_every_loss_is_that_of_trl(loss: str) -> None:
    assert_trained_alike(alike.dpo, 3, loss_type=[loss], **OPTIONS.get(loss, {}))


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_fifty_steps_of_dpo_with_every_loss_are_those_of_trl(loss: str, adapter: bool) -> None:
    smallest = SMALLEST.get(loss, 1e-6)
    assert_trained_alike(alike.dpo, 50, adapter, smallest=smallest, loss_type=[loss], **OPTIONS.get(loss, {}))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"adapter": True},
        {"precompute_ref_log_probs": True},
        {"adapter": True, "precompute_ref_log_probs": True},
        {"own_reference": False, "precompute_ref_log_probs": True},
        {"activation_checkpointing": True},
        {"activation_checkpointing": True, "adapter": True},
        {"use_weighting": True, "own_reference": False, "precompute_ref_log_probs": True},
        {"ld_alpha": 0.5},
        {"max_length": 16},
        {"max_length": 16, "truncation_mode": "keep_end"},
        {"gradient_accumulation_steps": 2},
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
    ],
    ids=str,
)
def test_dpo_with_any_options_is_that_of_trl(options: dict[str, Any]) -> None:
    steps = 50 if options in ({}, {"adapter": True}) else 3
    assert_trained_alike(alike.dpo, steps, **options)


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("own_reference", [False, True])
def test_scaled_logits_are_those_of_trl(own_reference: bool, adapter: bool) -> None:
    """They use TRL's head, which computes fewer fields for a reference that runs at every step."""
    kept = not (own_reference or adapter)
    architecture = {"kind": "granite", "logits_scaling": 8.0}
    options = {"architecture": architecture, "precompute_ref_log_probs": kept}
    assert_trained_alike(alike.dpo, 3, adapter, own_reference, **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"adapter": True}, {"activation_checkpointing": True}, {"center_rewards_coefficient": 0.1}],
    ids=str,
)
def test_a_reward_model_is_trained_as_by_trl(options: dict[str, Any]) -> None:
    assert_trained_alike(alike.reward, 50 if options == {} else 3, **options)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_scores_of_rankings_are_those_of_each_response(kind: str) -> None:
    model = alike.tiny(kind, AutoModelForSequenceClassification)
    rows = [*CASES["four responses"], *CASES["pairs"]]
    batch = rankings.Collator(0)([{"response_ids": rows[:4], "ordered": 4}, {"response_ids": rows[4:], "ordered": 1}])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with sharing(model):
        scores = model(**inputs, use_cache=False).logits
    scores.sum().backward()
    gradient = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    plain = torch.cat([model(input_ids=torch.tensor([row])).logits for row in rows])
    plain.sum().backward()
    torch.testing.assert_close(scores, plain, atol=3e-5, rtol=3e-5)
    for ours, theirs in zip(gradient, (p.grad for p in model.parameters() if p.grad is not None), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4 * theirs.abs().max().item() + 1e-7, rtol=1e-4)


def test_other_precision_takes_trls_head_at_the_same_positions() -> None:
    """In bfloat16 the head is TRL's, and receives only the labeled positions."""
    trainer = alike.dpo(1)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    model = copy.copy(trainer.model).to(torch.bfloat16)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
    with torch.no_grad():
        plain = model(**inputs, fused_lm_head=True)
        with sharing(model):
            found = model(**inputs, fused_lm_head=True)
    assert torch.equal(found.label_mask, plain.label_mask)
    for name in ("log_probs", "entropy", "mean_logits"):
        torch.testing.assert_close(found[name], plain[name], atol=0.1, rtol=0.1)


@pytest.fixture(autouse=True)
def same_draws() -> Iterator[None]:
    with torch.random.fork_rng():
        yield
