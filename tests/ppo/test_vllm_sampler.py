"""A separate engine's copy of the policy, with a stand-in for vLLM."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlhf.errors import TrainingError
from rlhf.modeling.generation import sample
from rlhf.ppo import PPOTrainer
from rlhf.ppo.vllm_sampler import Copied
from tests.ppo.conftest import TINY, new_policy

Trainers = Callable[..., PPOTrainer]


class StandIn:
    """A copy in this process with weights rounded to bfloat16, like the rounding of other kernels."""

    def __init__(self, policy: Any, end: int, rounds: bool = True):
        self.policy, self.end, self.rounds, self.synced = policy, end, rounds, 0
        self.own = copy.deepcopy(policy)

    def sync_weights(self) -> None:
        self.synced += 1
        with torch.no_grad():
            for own, new in zip(self.own.parameters(), self.policy.parameters(), strict=True):
                own.copy_(new.bfloat16() if self.rounds else new)

    def generate(self, prompts: list[list[int]], images: None, num_generations: int) -> tuple[Any, ...]:
        assert num_generations == 1
        length, temperature = TINY["max_response_length"], TINY["temperature"]
        found = sample(self.own, prompts, {self.end}, 0, length, temperature)
        logprobs = [[[value] for value in row.logprobs] for row in found]
        tokens = [[[token] for token in row.ids] for row in found]
        return prompts, [row.ids for row in found], logprobs, tokens


def engine(tokenizer: Any, rounds: bool = True) -> tuple[Any, Copied]:
    policy = new_policy(tokenizer)
    return policy, Copied(StandIn(policy, tokenizer.eos_token_id, rounds))


def test_its_weights_follow_the_policys_and_its_distance_is_logged(new_trainer: Trainers, tokenizer: Any) -> None:
    policy, copied = engine(tokenizer)
    told: list[dict[str, float]] = []
    trainer = new_trainer(
        policy=policy, sampler=copied, synchronize=copied.synchronize, importance_cap=2.0, updates=3,
        log=lambda metrics, update: told.append(metrics),
    )  # fmt: skip
    trainer.train()
    assert copied.copy.synced == 3
    gaps = [metrics["val/sampler_gap"] for metrics in told]
    assert all(1e-5 < gap < 0.05 for gap in gaps)


def test_without_synchronization_the_gap_grows(new_trainer: Trainers, tokenizer: Any) -> None:
    policy, copied = engine(tokenizer, rounds=False)
    told: list[dict[str, float]] = []
    trainer = new_trainer(
        policy=policy, sampler=copied, importance_cap=2.0, updates=3, log=lambda metrics, update: told.append(metrics)
    )
    trainer.train()
    gaps = [metrics["val/sampler_gap"] for metrics in told]
    assert gaps[0] < 1e-5 < 0.01 < gaps[1] < gaps[2]


def test_with_equal_weights_it_draws_what_the_policy_draws(new_trainer: Trainers, tokenizer: Any) -> None:
    policy, copied = engine(tokenizer, rounds=False)
    options = {"updates": 2, "rollout": {"logprobs": "forward"}}
    other = new_trainer(policy=policy, sampler=copied, synchronize=copied.synchronize, **options)
    assert other.train() == new_trainer(**options).train()


class Broken:
    def __init__(self, answer: tuple[Any, ...]):
        self.answer = answer

    def sync_weights(self) -> None:
        pass

    def generate(self, prompts: list[list[int]], images: None, num_generations: int) -> tuple[Any, ...]:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (([], [], [], []), "0 responses to 1 prompts"),
        (([[5]], [[7, 8]], None, None), "no log-probabilities"),
        (([[5]], [[7, 8]], [[[-1.0]]], None), "a token without log-probability"),
        (([[5]], [[7, 8]], [[[-1.0], [None]]], None), "a token without log-probability"),
        (([[5]], [[]], [[]], None), "a response without tokens"),
    ],
)
def test_an_engine_that_answers_something_else_is_refused(answer: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        Copied(Broken(answer))(None, [[5]], {1}, 0, 4, 1.0)


def test_tokens_after_eos_or_the_limit_are_cut() -> None:
    answer = ([[5], [5]], [[7, 1, 9], [7, 8, 9, 9, 9]], [[[-1.0]] * 3, [[-1.0]] * 5], None)
    found = Copied(Broken(answer))(None, [[5], [5]], {1}, 0, 4, 1.0)
    assert [row.ids for row in found] == [[7, 1], [7, 8, 9, 9]]
    assert [len(row.logprobs) for row in found] == [2, 4]
