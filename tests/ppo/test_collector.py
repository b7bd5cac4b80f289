"""Groups of K responses: their prompts, their share with equal scores, and their replacement."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from rlhf.ppo import PPOTrainer
from rlhf.ppo.rollout import learned_rows
from tests.ppo.conftest import length_reward

Trainers = Callable[..., PPOTrainer]
GROUPS: dict[str, Any] = {"advantage": "rloo", "samples": 3, "missing_eos": "keep", "normalize_scores": False}


def only(*words: str) -> Callable[..., list[float]]:
    """Return a reward that differs between the responses to prompts with one of ``words``, and is 0 for others."""

    def reward(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        hard = [not any(word in prompt for word in words) for prompt in prompts]
        return [0.0 if no else n + len(text) for n, (no, text) in enumerate(zip(hard, completions, strict=True))]

    return reward


def test_the_responses_to_a_prompt_are_consecutive_and_differ(new_trainer: Trainers) -> None:
    collector = new_trainer(**GROUPS).collector
    chosen = collector.batch(0)
    found, noted = collector.draw(chosen, 0)
    assert found.rows == [collector.prompt_ids[i] for i in chosen for _ in range(3)]
    assert len({tuple(one.ids) for one in found.sampled[:3]}) > 1
    assert set(noted) == {"val/equal_groups"}
    assert collector.draw(chosen, 0) == (found, noted)
    assert collector.draw(chosen, 1)[0] != found


def test_the_share_of_equal_groups_is_that_before_they_are_replaced(new_trainer: Trainers) -> None:
    reward = only("cat")
    kept = new_trainer(**GROUPS, reward=reward).collector
    chosen = kept.batch(0)
    equal = ["cat" not in kept.prompts[i] for i in chosen]
    found, noted = kept.draw(chosen, 0)
    assert noted["val/equal_groups"] == pytest.approx(sum(equal) / len(equal))
    assert 0 < sum(equal) < len(equal)
    renewed = new_trainer(**GROUPS, reward=reward, equal_groups="resample", resample_rounds=20).collector
    other, again = renewed.draw(chosen, 0)
    assert again == noted
    for place, was_equal in enumerate(equal):
        group = slice(3 * place, 3 * place + 3)
        assert len(set(other.scores[group])) > 1
        assert (other.sampled[group] == found.sampled[group]) == (not was_equal)
    once = new_trainer(**GROUPS, reward=reward, equal_groups="resample", resample_rounds=1).collector
    assert once.draw(chosen, 0)[0] != found


def test_groups_that_stay_equal_are_left_out_of_the_loss(new_trainer: Trainers) -> None:
    """Without any unequal group no step is taken."""
    before = {name: value.clone() for name, value in new_trainer().policy.state_dict().items()}
    for rule in ("drop", "resample"):
        trainer = new_trainer(**GROUPS, reward=lambda prompts, texts: [1.0] * len(texts), equal_groups=rule, updates=1)
        metrics = trainer.train()
        assert metrics["val/equal_groups"] == 1
        assert metrics["policy/steps"] == 0
        assert all(torch.equal(value, before[name]) for name, value in trainer.policy.state_dict().items())


def test_a_long_response_is_penalized_linearly(new_trainer: Trainers) -> None:
    """At most 6 tokens, a buffer of 4: nothing up to 2 tokens, then a quarter per token."""
    collector = new_trainer(**GROUPS, overlong_buffer=4).collector
    lengths = torch.tensor([1.0, 2.0, 3.0, 6.0, 5.0, 4.0])
    found = collector.final(torch.ones(6), lengths, torch.ones(6, dtype=torch.bool))
    assert found.tolist() == [1, 1, 0.75, 0, 0.25, 0.5]


def test_responses_without_eos_are_masked(new_trainer: Trainers) -> None:
    trainer = new_trainer(advantage="grpo", samples=4, missing_eos="mask", reward=length_reward)
    rollout, _ = trainer._rollout(trainer.batch(0))
    rollout = rollout._replace(ended=torch.arange(len(rollout.ended)) % 3 == 0)
    learned = learned_rows(rollout, rollout.scores, trainer.stage, torch.ones_like(rollout.ended))
    assert learned.mask.any(-1).tolist() == rollout.ended.tolist()
