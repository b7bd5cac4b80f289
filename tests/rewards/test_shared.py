"""Scores with prompts computed once, compared with transformers' plain forward pass of each row."""

from typing import Any

import numpy
import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification

from rlhf.modeling.architectures import KNOWN
from rlhf.rewards import AdaptedRewardModel, RewardModel, shared
from tests.preference import alike

PROMPT = list(range(2, 22))
ROWS = [
    [*PROMPT, 5, 1], [*PROMPT[::-1], 7, 7, 1], [*PROMPT, 8, 9, 9, 1], [3, 4, 1], [*PROMPT[::-1], 9, 1], [*PROMPT, 5, 1],
    [*PROMPT, *PROMPT, 6, 1], [*PROMPT, *PROMPT, 7, 7, 1], [*PROMPT, 5, 0, 0],
]  # fmt: skip


def classifier(kind: str = "llama", **options: Any) -> Any:
    return alike.tiny(kind, AutoModelForSequenceClassification, **options)


def plain(model: Any, rows: list[list[int]] = ROWS) -> list[float]:
    with torch.no_grad():
        return [model(input_ids=torch.tensor([row])).logits.item() for row in rows]


def counted(model: torch.nn.Module) -> list[int]:
    """Return a list to which each forward pass of the first feed-forward layer adds its number of tokens."""
    found: list[int] = []
    [first, *_] = [module for name, module in model.named_modules() if name.endswith(("mlp", "feed_forward"))]
    first.register_forward_pre_hook(lambda module, given: found.append(given[0].flatten(0, -2).shape[0]))
    return found


@pytest.mark.parametrize("kind", sorted(set(KNOWN) - {"granite"}))  # which has no classifier in transformers
def test_scores_are_those_of_the_plain_forward_pass(kind: str) -> None:
    """The padding token at the end of the last row is not read, as transformers does it."""
    model = classifier(kind)
    reward = RewardModel(model, alike.tokenizer(), max_length=64)
    assert reward.obstacle is None
    expected = plain(model)
    tokens = counted(model)
    assert reward.score(ROWS) == pytest.approx(expected, abs=1e-5)
    assert sum(tokens) < 0.5 * sum(map(len, ROWS))


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_the_inputs_of_the_head_are_those_that_it_scores(shared_prefix: bool) -> None:
    """Also of a row that ends with padding tokens."""
    model = classifier()
    scores, hidden = RewardModel(model, alike.tokenizer(), max_length=64, shared_prefix=shared_prefix).read(ROWS)
    assert hidden is not None
    assert hidden.shape == (len(ROWS), model.config.hidden_size)
    assert (hidden @ model.score.weight[0]).tolist() == pytest.approx(scores, abs=1e-5)
    assert scores == pytest.approx(plain(model), abs=1e-5)


def test_each_adapter_scores_with_its_own_weights() -> None:
    base, members = classifier(), []
    config = LoraConfig(r=2, task_type=TaskType.SEQ_CLS, init_lora_weights=False)
    model = get_peft_model(base, config, adapter_name="0")
    model.add_adapter("1", config)
    for name in ("0", "1"):
        model.set_adapter(name)
        member = AdaptedRewardModel(model.eval(), name, alike.tokenizer(), max_length=None)
        members.append(member.score(ROWS))
        assert members[-1] == pytest.approx(plain(model), abs=1e-5)
    assert members[0] != pytest.approx(members[1], abs=1e-3)


def test_an_architecture_that_cannot_share_is_reported_once(capsys: pytest.CaptureFixture) -> None:
    model = classifier("opt", word_embed_proj_dim=32, ffn_dim=48)
    reward = RewardModel(model, alike.tokenizer(), max_length=None)
    for _ in range(2):
        assert reward.score(ROWS[:8]) == pytest.approx(plain(model, ROWS[:8]), abs=1e-5)
    assert capsys.readouterr().out.count("rewards: each prompt is computed again for every response, since opt is") == 1


def test_without_common_prefixes_rows_are_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier()
    monkeypatch.setattr(shared, "scores", None)
    rows = [[number, *PROMPT, 1] for number in range(2, 6)]
    assert RewardModel(model, alike.tokenizer(), max_length=None).score(rows) == pytest.approx(
        plain(model, rows), abs=1e-5
    )
    off = RewardModel(model, alike.tokenizer(), max_length=None, shared_prefix=False)
    assert off.score(ROWS) == pytest.approx(plain(model), abs=1e-5)


def test_batches_end_between_prompts() -> None:
    prompts = [[number] * 20 for number in range(2, 6)]
    rows = [numpy.array([*prompt, *[response] * 3]) for prompt in prompts for response in (7, 8, 9)]
    found = list(shared.batches(rows, 70, 64))
    assert found == [range(6), range(6, 12)]
    assert next(shared.batches(rows, 1000, 4)) == range(3)
    assert list(shared.batches(rows, 70, 64, enough=20)) == [range(n, n + 3) for n in (0, 3, 6, 9)]
    assert list(shared.batches(rows, 70, 64, enough=30)) == found
    assert [len(part) for part in shared.batches(rows[:3], 10, 64)] == [1, 1, 1]
    assert [i for part in shared.batches(rows, 33, 64) for i in part] == list(range(12))
    assert list(shared.batches([], 10, 10)) == []
