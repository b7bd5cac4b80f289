"""Prompts stored once: the same responses and log-probabilities as with a copy for each response."""

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from rlhf.modeling import decoding
from rlhf.modeling.architectures import KNOWN
from rlhf.modeling.caches import SharedPrompts, make_room
from rlhf.modeling.generation import sample, seeded
from rlhf.modeling.segment_attention import attending
from tests.preference import alike

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [13]]  # of different lengths, so the shorter ones are padded


def sampled(model: Any, rows: list[list[int]]) -> list[decoding.Sampled]:
    with seeded(3):
        return sample(model, rows, set(range(0, 400, 7)), 0, 12, 1.0)  # many ends: rows leave the batch


@pytest.mark.parametrize("kind", KNOWN)
def test_decoding_with_shared_prompts_equals_decoding_with_copies(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    full = {"sliding_window": None} if kind in ("mistral", "phi3") else {}  # a window has another cache, and copies
    model = alike.tiny(kind, **full).eval()
    rows = [prompt for prompt in PROMPTS for _ in range(4)]
    copies = sampled(model, rows)
    used: list[SharedPrompts] = []
    keep = SharedPrompts.keep
    monkeypatch.setattr(SharedPrompts, "keep", lambda self, of: (used.append(self), keep(self, of))[1])
    with attending([model]):
        shared = sampled(model, rows)
    assert len(used) > 1  # also after rows have left
    assert [one.ids for one in shared] == [one.ids for one in copies]
    for one, other in zip(shared, copies, strict=True):
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-5, rtol=0)
    assert len({tuple(one.ids) for one in shared}) > 6


@pytest.mark.parametrize("heads", [2, 4])
def test_attention_is_that_over_prompt_and_response_together(heads: int) -> None:
    """Two prompts of 3 and 2 tokens, the second padded; rows 0, 2 and 3 have the first, row 1 the second."""
    torch.manual_seed(0)
    keys, values = torch.randn(2, 2, 3, 8), torch.randn(2, 2, 3, 8)
    mask, of = torch.tensor([[1, 1, 1], [0, 1, 1]]), torch.tensor([0, 1, 0, 0])
    query, own, own_values = torch.randn(4, heads, 1, 8), torch.randn(4, 2, 5, 8), torch.randn(4, 2, 5, 8)
    module = torch.nn.Identity()
    module.layer_idx = 0
    prompts = SharedPrompts([(keys, values)], mask, of)

    def check() -> None:
        found = prompts.attend(module, query, own, own_values, None)
        for row, prompt in enumerate(prompts.of.tolist()):
            seen = prompts.mask[prompt]
            first, second = prompts.layers[0]
            k, v = (
                torch.cat([whole[prompt][:, seen], part[row]], dim=1).repeat_interleave(heads // 2, 0)
                for whole, part in ((first, own), (second, own_values))
            )
            expected = torch.nn.functional.scaled_dot_product_attention(query[row], k, v)
            torch.testing.assert_close(found[row, 0], expected[:, 0])

    check()
    prompts.keep(prompts.of[torch.tensor([0, 2, 3])])  # the second prompt has no row left
    query, own, own_values = (part[[0, 2, 3]] for part in (query, own, own_values))
    assert len(prompts.mask) == 1
    check()


def test_a_room_keeps_what_was_read_and_takes_more() -> None:
    torch.manual_seed(0)
    cache, plain = DynamicCache(), DynamicCache()
    given = [(torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)) for _ in range(2)]
    for number, (keys, values) in enumerate(given):
        cache.update(keys, values, number)
        plain.update(keys, values, number)
    make_room(cache, 8)
    more = torch.randn(1, 2, 2, 4), torch.randn(1, 2, 2, 4)
    for number in range(2):
        for found, expected in zip(cache.update(*more, number), plain.update(*more, number), strict=True):
            assert torch.equal(found, expected)
    assert cache.get_seq_length() == plain.get_seq_length() == 5
