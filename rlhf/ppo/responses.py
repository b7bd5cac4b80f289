"""The responses of a batch: sampled from the policy, scored, and packed into a Rollout."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlhf.data.render import Prompt, prompt_ids
from rlhf.modeling.decoding import Sampled
from rlhf.modeling.generation import end_ids, response_text, sample, sampling_mode, seeded
from rlhf.ppo.rollout import Rollout, pack
from rlhf.rewards import RewardFunction
from rlhf.rewards.protocol import checked_or_none

# (policy, ids of the prompts, ids that end a response, padding id, length limit, temperature) -> one response per
# prompt: rlhf.modeling.generation.sample, or another engine that has the policy's weights.
Sampler = Callable[[Any, Sequence[Sequence[int]], set[int], int, int, float], list[Sampled]]


class Responses(NamedTuple):
    """Prompts as token ids, a sampled response to each, and its score; NaN if no reward scores it."""

    rows: list[Sequence[int]]
    sampled: list[Sampled]
    scores: list[float]

    def replaced(self, groups: Sequence[int], others: "Responses", samples: int) -> "Responses":
        """Return the responses with ``groups`` of ``samples`` rows replaced by the first groups of ``others``."""
        source = list(range(len(self.scores)))
        for place, group in enumerate(groups):
            first = len(source) + place * samples
            source[group * samples : (group + 1) * samples] = range(first, first + samples)
        rows, sampled, scores = (own + new for own, new in zip(self, others, strict=True))
        return Responses([rows[i] for i in source], [sampled[i] for i in source], [scores[i] for i in source])

    def packed(self, ends: set[int], pad: int, device: torch.device) -> Rollout:
        """Return a rollout with the sampler's log-probabilities, and its values if it has any."""
        rollout = pack(self.rows, [one.ids for one in self.sampled], self.scores, ends, pad, device)

        def padded(ragged: Sequence[Sequence[float]]) -> Tensor:
            return pad_sequence([torch.tensor(row) for row in ragged], batch_first=True).to(device)

        rollout = rollout._replace(sampler_logprobs=padded([one.logprobs for one in self.sampled]))
        values = [one.values for one in self.sampled]
        return rollout._replace(values=padded(values)) if values[0] else rollout


def respond(
    policy: Any,
    tokenizer: Any,
    reward: RewardFunction,
    prompts: Sequence[Prompt],
    rows: Sequence[Sequence[int]],
    *,
    temperature: float,
    max_response_length: int,
    seed: int,
    sampler: Sampler = sample,
    before: int = 0,
) -> Responses:
    """Sample a response to each of ``prompts``, whose token ids are ``rows``, and score it.

    ``before`` is the number of rows of the same batch that lower ranks sample: their random numbers are skipped, so
    that responses do not depend on the number of ranks.

    Raises:
        TrainingError: the reward did not return one finite number, or None, per response.
    """
    with sampling_mode(policy), seeded(seed):
        torch.rand(before, max_response_length)
        ends = end_ids(policy, tokenizer)
        sampled = sampler(policy, rows, ends, tokenizer.pad_token_id, max_response_length, temperature)
    texts = [response_text(tokenizer, prompt, one.ids) for prompt, one in zip(prompts, sampled, strict=True)]
    scores = checked_or_none(reward(prompts, texts), texts, "the reward")
    return Responses(list(rows), sampled, [math.nan if score is None else score for score in scores])


def collect(
    policy: Any,
    tokenizer: Any,
    reward: RewardFunction,
    prompts: Sequence[Prompt],
    *,
    temperature: float,
    max_prompt_length: int,
    max_response_length: int,
    seed: int,
) -> Rollout:
    """Return a rollout of one response to each prompt, truncated to ``max_prompt_length``; see ``respond``."""
    rows = [prompt_ids(tokenizer, prompt, max_prompt_length) for prompt in prompts]
    found = respond(
        policy, tokenizer, reward, prompts, rows, temperature=temperature, max_response_length=max_response_length,
        seed=seed,
    )  # fmt: skip
    return found.packed(end_ids(policy, tokenizer), tokenizer.pad_token_id, policy.device)
