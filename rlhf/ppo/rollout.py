"""One batch of experience: what the policy answered, how likely that was, what it was worth."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlhf.config import MissingEOS, SentinelSettings
from rlhf.data.render import Prompt, prompt_ids
from rlhf.generate import Sampled, end_ids, response_text, sample, sampling_mode, seeded
from rlhf.ppo.tensors import token_logprobs
from rlhf.rewards import RewardFunction, checked

# (policy, prompts' ids, ids that end a response, padding id, most tokens, temperature) -> one response to each prompt;
# rlhf.generate.sample, or another engine that has the policy's weights.
Sampler = Callable[[Any, Sequence[Sequence[int]], set[int], int, int, float], list[Sampled]]


class Rollout(NamedTuple):
    """B prompts, each padded on the left to P tokens; responses padded on the right to T tokens."""

    prompt_ids: Tensor  # (B, P)
    prompt_mask: Tensor  # (B, P)  True where a prompt token stands
    response_ids: Tensor  # (B, T)
    mask: Tensor  # (B, T)  True up to and including the end-of-sequence token
    ended: Tensor  # (B,)  True where the response ends by itself
    sampler_logprobs: Tensor  # (B, T)  log π_sampler(aₜ|sₜ), as the engine that drew the token has it
    logprobs: Tensor  # (B, T)  log π_old(aₜ|sₜ)
    ref_logprobs: Tensor  # (B, T)  log π_ref(aₜ|sₜ)
    values: Tensor  # (B, T)  V_old(sₜ), of the state before token t
    scores: Tensor  # (B,)  one number per response, as the RewardFunction gave it

    def rows(self, index: Tensor) -> "Rollout":
        return Rollout(*(field[index] for field in self))


def model_inputs(rollout: Rollout) -> dict[str, Tensor]:
    """Inputs for prompts and responses together, (B, P + T). Positions count real tokens, whatever the padding."""
    mask = torch.cat([rollout.prompt_mask, rollout.mask], dim=1).long()
    return {
        "input_ids": torch.cat([rollout.prompt_ids, rollout.response_ids], dim=1),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
    }


def response_logits(model: Any, rollout: Rollout) -> Tensor:
    """Logits (B, T, V) that predict the response tokens: those at the position before each."""
    length = rollout.response_ids.shape[1]
    return model(**model_inputs(rollout), use_cache=False, logits_to_keep=length + 1).logits[:, :-1]


def reference_logits(policy: Any, reference: Any | None, rollout: Rollout) -> Tensor:
    """Logits (B, T, V) of the reference, which is the policy with its adapter switched off where it is None."""
    without: AbstractContextManager = policy.disable_adapter() if reference is None else nullcontext()
    with without:
        return response_logits(policy if reference is None else reference, rollout)


def tolerance(model: Any, limits: SentinelSettings) -> float:
    """By how much two forward passes of ``model`` may differ in a log-probability: rounding, in its type."""
    exact = model.dtype is torch.float32 and not getattr(model, "is_loaded_in_4bit", False)
    return limits.start_error if exact else limits.start_error_half


def micro_batches(rollout: Rollout, size: int) -> Iterator[Rollout]:
    for start in range(0, len(rollout.scores), size):
        yield Rollout(*(field[start : start + size] for field in rollout))


@torch.no_grad()
def evaluate(
    rollout: Rollout, policy: Any, reference: Any | None, critic: Any, temperature: float, size: int
) -> Rollout:
    """Fill in log-probabilities and values by the forward pass that the update uses.

    Taken from generation, they would differ by rounding and by the sampler's warpers, and the first ratio from 1.
    """
    parts = []
    for part in micro_batches(rollout, size):
        logprobs = token_logprobs(response_logits(policy, part), part.response_ids, temperature)
        ref_logits = reference_logits(policy, reference, part)
        ref_logprobs = token_logprobs(ref_logits, part.response_ids, temperature)
        values = critic(**model_inputs(part), length=part.response_ids.shape[1])
        parts.append((logprobs, ref_logprobs, values))
    logprobs, ref_logprobs, values = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return rollout._replace(logprobs=logprobs, ref_logprobs=ref_logprobs, values=values)


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
    sampler: Sampler = sample,
) -> Rollout:
    """Sample a response to each prompt and score it; what ``evaluate`` fills in is left at zero.

    Raises:
        TrainingError: the reward returned something else than one finite number per response.
    """
    rows = [prompt_ids(tokenizer, prompt, max_prompt_length) for prompt in prompts]
    ends = end_ids(policy, tokenizer)
    with sampling_mode(policy), seeded(seed):
        sampled = sampler(policy, rows, ends, tokenizer.pad_token_id, max_response_length, temperature)
    responses = [ids for ids, _ in sampled]
    completions = [response_text(tokenizer, *pair) for pair in zip(prompts, responses, strict=True)]
    scores = checked(reward(prompts, completions), completions)
    rollout = pack(rows, responses, scores, ends, tokenizer.pad_token_id, policy.device)
    logprobs = pad_sequence([torch.tensor(found) for _, found in sampled], batch_first=True)
    return rollout._replace(sampler_logprobs=logprobs.to(policy.device))


def pack(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    scores: Sequence[float],
    ends: set[int],
    pad: int,
    device: torch.device,
) -> Rollout:
    """Ragged rows as tensors. Masks come from lengths, never from the padding token."""
    wide, long = max(map(len, prompts)), max(map(len, responses))

    def tensor(values: list, dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    zeros = torch.zeros(len(responses), long, device=device)
    return Rollout(
        prompt_ids=tensor([[pad] * (wide - len(row)) + list(row) for row in prompts], torch.long),
        prompt_mask=tensor([[False] * (wide - len(row)) + [True] * len(row) for row in prompts], torch.bool),
        response_ids=tensor([list(row) + [pad] * (long - len(row)) for row in responses], torch.long),
        mask=tensor([[True] * len(row) + [False] * (long - len(row)) for row in responses], torch.bool),
        ended=tensor([row[-1] in ends for row in responses], torch.bool),
        sampler_logprobs=zeros,
        logprobs=zeros,
        ref_logprobs=zeros,
        values=zeros,
        scores=tensor(list(scores), torch.float32),
    )


def final_scores(
    scores: Tensor, ended: Tensor, mean: float, std: float, clip: float | None, rule: MissingEOS, penalty: float
) -> Tensor:
    """Scores as PPO uses them, (B,) -> (B,): normalised, clipped, then the rule for responses that do not end.

    (score - mean) / std, bounded to [-clip, clip]; subtract: minus ``penalty``; replace: ``-penalty`` (Huang et
    al. 2024, https://arxiv.org/abs/2403.17031, the EOS trick).
    """
    scores = (scores - mean) / std
    if clip is not None:
        scores = scores.clamp(-clip, clip)
    if rule is MissingEOS.subtract:
        return torch.where(ended, scores, scores - penalty)
    if rule is MissingEOS.replace:
        return torch.where(ended, scores, torch.full_like(scores, -penalty))
    return scores
