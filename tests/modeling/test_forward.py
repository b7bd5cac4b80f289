"""Log-probabilities of whole responses, compared with a separate forward pass of each row."""

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf.modeling.forward import only_at, sequence_logprobs

PROMPTS = [[3, 4], [5], [6, 7, 8, 9]]
RESPONSES = [[10, 11, 12], [13, 14], [15]]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, **sizes)).eval()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@torch.no_grad()
def test_it_is_the_sum_over_a_plain_forward_pass(model: LlamaForCausalLM, temperature: float) -> None:
    found = sequence_logprobs(model, PROMPTS, RESPONSES, temperature)
    for prompt, response, value in zip(PROMPTS, RESPONSES, found, strict=True):
        logits = model(torch.tensor([prompt + response])).logits[0] / temperature
        logprobs = logits.log_softmax(-1)
        expected = sum(logprobs[len(prompt) - 1 + t, token] for t, token in enumerate(response))
        assert value.item() == pytest.approx(expected.item(), abs=1e-5)


@torch.no_grad()
def test_other_rows_change_nothing(model: LlamaForCausalLM) -> None:
    together = sequence_logprobs(model, PROMPTS, RESPONSES)
    alone = [
        sequence_logprobs(model, [prompt], [response]) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=0)


def test_the_last_layer_is_restricted_and_gradients_stay(model: LlamaForCausalLM) -> None:
    """Compared with the whole pass: the read hidden states, and the gradients of their sum of squares."""
    model = deepcopy(model).double()
    ids, index = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]]), torch.tensor([2, 2, 7])
    counted: list[int] = []
    attention = model.model.layers[-1].self_attn
    found = []
    for restricted in (True, False):
        model.zero_grad()
        with only_at(model.model, None, index) if restricted else nullcontext():
            handle = attention.o_proj.register_forward_pre_hook(lambda _, given: counted.append(given[0].shape[-2]))
            hidden = model.model(ids, use_cache=False).last_hidden_state.flatten(0, 1)[index]
            handle.remove()
        hidden.square().sum().backward()
        found.append((hidden.detach(), [p.grad.clone() for p in model.model.parameters()]))
    assert counted == [2, 4]
    torch.testing.assert_close(*found)
