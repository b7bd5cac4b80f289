"""Groups of responses are replaced as a whole, and random numbers of lower ranks are skipped."""

from typing import Any

import torch

from rlhf.modeling.decoding import Sampled
from rlhf.ppo.responses import Responses, respond
from tests.ppo.conftest import PROMPTS, length_reward, new_policy


def made(first: int, count: int) -> Responses:
    numbers = range(first, first + count)
    return Responses([[n] for n in numbers], [Sampled([n], [-0.5]) for n in numbers], [float(n) for n in numbers])


def test_groups_are_replaced_by_the_first_others() -> None:
    found = made(0, 6).replaced([0, 2], made(10, 6), 2)
    assert found.scores == [10, 11, 2, 3, 12, 13]
    assert found.rows == [[10], [11], [2], [3], [12], [13]]
    assert [one.ids for one in found.sampled] == found.rows
    assert made(0, 4).replaced([], made(10, 2), 2) == made(0, 4)


def test_packed_they_have_the_samplers_log_probabilities_and_values() -> None:
    found = Responses(
        [[5], [6, 7]], [Sampled([8, 1], [-1.0, -2.0], [0.5, 0.25]), Sampled([9], [-3.0], [1.0])], [1.0, 2.0]
    )
    rollout = found.packed({1}, 0, torch.device("cpu"))
    assert rollout.sampler_logprobs.tolist() == [[-1, -2], [-3, 0]]
    assert rollout.values.tolist() == [[0.5, 0.25], [1, 0]]
    assert rollout.ended.tolist() == [True, False]
    assert rollout.mask.tolist() == [[True, True], [True, False]]


def test_responses_of_a_rank_are_those_of_one_process(tokenizer: Any) -> None:
    rows = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS[:4]]
    options: Any = {"temperature": 0.7, "max_response_length": 6, "seed": 3}
    policy = new_policy(tokenizer)
    whole = respond(policy, tokenizer, length_reward, PROMPTS[:4], rows, **options)
    part = respond(policy, tokenizer, length_reward, PROMPTS[2:4], rows[2:], before=2, **options)
    assert [one.ids for one in part.sampled] == [one.ids for one in whole.sampled[2:]]
