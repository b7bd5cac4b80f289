"""The critic reads the state before a token, and starts as the reward model."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from rlhf.ppo import Critic
from rlhf.ppo.rollout import Rollout, inputs_of, pack, values_of
from rlhf.rewards import RewardModel
from tests.ppo.conftest import new_reward_model

ROWS = [[40, 41, 42], [50], [60, 61]], [[70, 71, 72, 1], [80, 81], [90]]


@pytest.fixture
def batch() -> Rollout:
    """Return prompts and responses of different lengths, padded with token 0."""
    return pack(*ROWS, [0.0, 0.0, 0.0], {1}, 0, torch.device("cpu"))


def score_of(classifier: Any, ids: list[int]) -> float:
    """Return the head's output at the last of ``ids``, in a single row without padding."""
    with torch.no_grad():
        return classifier.score(classifier.model(torch.tensor([ids])).last_hidden_state[0, -1]).item()


def test_a_value_is_the_head_at_the_end_of_the_prefix_before_the_token(tokenizer: Any, batch: Rollout) -> None:
    classifier = new_reward_model(tokenizer)
    values = values_of(Critic(classifier), batch, inputs_of(batch))
    assert values.shape == (3, 4)
    for row, (prompt, response) in enumerate(zip(*ROWS, strict=True)):
        for t in range(len(response)):
            assert values[row, t].item() == pytest.approx(score_of(classifier, prompt + response[:t]), abs=1e-5)


def test_one_token_later_it_is_the_reward_models_score(tokenizer: Any) -> None:
    """The reward model reads the score at EOS; the critic's value there is the same."""
    classifier = new_reward_model(tokenizer)
    scorer = RewardModel(classifier, tokenizer, max_length=64)
    [score] = scorer(["red cat"], [" dog"])
    ids = scorer.encode("red cat", " dog")
    assert ids[-1] == tokenizer.eos_token_id
    after = pack([ids[:2]], [[*ids[2:], 5]], [0.0], {1}, 0, torch.device("cpu"))  # any token behind the end
    values = values_of(Critic(classifier), after, inputs_of(after))
    assert values[0, -1].item() == pytest.approx(score, abs=1e-5)


def test_an_adapted_reward_model_is_read_with_its_adapter_and_head(tokenizer: Any, batch: Rollout) -> None:
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    adapted = get_peft_model(new_reward_model(tokenizer), lora)
    for parameter in adapted.parameters():
        parameter.data += 0.01 * parameter.requires_grad
    values = values_of(Critic(adapted.eval()), batch, inputs_of(batch))
    merged = adapted.merge_and_unload()
    assert torch.allclose(values, values_of(Critic(merged), batch, inputs_of(batch)), atol=1e-5)
    assert not torch.allclose(
        values, values_of(Critic(new_reward_model(tokenizer)), batch, inputs_of(batch)), atol=1e-3
    )


def test_values_are_float32_whatever_the_weights(tokenizer: Any, batch: Rollout) -> None:
    values = values_of(Critic(new_reward_model(tokenizer).bfloat16()), batch, inputs_of(batch))
    assert values.dtype is torch.float32
