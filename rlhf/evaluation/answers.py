"""What one model answers to the held-out prompts, and how likely that was under it and under the reference."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rlhf.config import CompareStage
from rlhf.data.render import Prompt, prompt_ids, question
from rlhf.generate import Response, end_ids, generate
from rlhf.ppo.rollout import Rollout, micro_batches, pack, response_logits
from rlhf.ppo.tensors import token_logprobs


@dataclass
class Candidate:
    """A model in the comparison; ``plain``: it is asked in plain text, because no chat template has taught it turns."""

    name: str
    model: Any
    tokenizer: Any
    plain: bool

    def prompt(self, prompt: Prompt) -> Prompt:
        return question(prompt) if self.plain else prompt


@dataclass
class Answers:
    """``texts[i][j]`` is sample j to prompt i, and likewise the other lists; ``greedy`` answers the stage's questions."""

    name: str
    plain: bool
    texts: list[list[str]]
    lengths: list[list[int]]
    ended: list[list[bool]]
    greedy: list[str]
    kl: list[list[float]] | None = None
    text_nll: float | None = None
    text_tokens: int | None = None
    text_bytes: int | None = None
    scores: dict[str, list[list[float]]] = field(default_factory=dict)


def answer(
    candidate: Candidate, prompts: Sequence[Prompt], stage: CompareStage, seed: int, reference: Any | None
) -> Answers:
    """Sample ``stage.samples`` responses to each prompt and answer the questions greedily.

    With a ``reference`` the Kullback-Leibler divergence from it is estimated on the samples.
    """
    asked = [candidate.prompt(prompt) for prompt in prompts for _ in range(stage.samples)]
    responses = _generate(candidate, asked, stage, stage.temperature, seed)
    questions = [candidate.prompt([{"role": "user", "content": text}]) for text in stage.questions]
    found = Answers(
        candidate.name,
        candidate.plain,
        texts=by_prompt([response.text for response in responses], stage.samples),
        lengths=by_prompt([len(response.ids) for response in responses], stage.samples),
        ended=by_prompt([response.ended for response in responses], stage.samples),
        greedy=[response.text for response in _generate(candidate, questions, stage, 0.0, seed)],
    )
    if reference is not None:
        found.kl = by_prompt(divergences(candidate, reference, asked, responses, stage), stage.samples)
    return found


def by_prompt(values: Sequence, samples: int) -> list[list]:
    return [list(values[start : start + samples]) for start in range(0, len(values), samples)]


def _generate(
    candidate: Candidate, prompts: Sequence[Prompt], stage: CompareStage, temperature: float, seed: int
) -> list[Response]:
    return generate(
        candidate.model,
        candidate.tokenizer,
        prompts,
        max_prompt_length=stage.max_prompt_length,
        max_response_length=stage.max_response_length,
        temperature=temperature,
        seed=seed,
        batch_size=stage.batch_size,
    )


@torch.no_grad()
def divergences(
    candidate: Candidate, reference: Any, prompts: Sequence[Prompt], responses: Sequence[Response], stage: CompareStage
) -> list[float]:
    """Σₜ log π(aₜ|sₜ) - log π_ref(aₜ|sₜ) of each response, in nats.

    Their mean over the policy's own samples estimates KL(π ‖ π_ref) of whole responses without bias, at the
    temperature of sampling.
    """
    rows = [prompt_ids(candidate.tokenizer, prompt, stage.max_prompt_length) for prompt in prompts]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]) + len(responses[i].ids))
    found = [0.0] * len(rows)
    for start in range(0, len(order), stage.batch_size):
        chosen = order[start : start + stage.batch_size]
        rollout = pack(
            [rows[i] for i in chosen],
            [responses[i].ids for i in chosen],
            [0.0] * len(chosen),
            end_ids(candidate.model, candidate.tokenizer),
            candidate.tokenizer.pad_token_id,
            candidate.model.device,
        )
        sums = sequence_logprobs(candidate.model, rollout, stage) - sequence_logprobs(reference, rollout, stage)
        for i, value in zip(chosen, sums.tolist(), strict=True):
            found[i] = value
    return found


def sequence_logprobs(model: Any, rollout: Rollout, stage: CompareStage) -> torch.Tensor:
    """log π of whole responses at the temperature of sampling, (B,)."""
    parts = []
    for part in micro_batches(rollout, stage.batch_size):
        logprobs = token_logprobs(response_logits(model, part), part.response_ids, stage.temperature)
        parts.append(torch.where(part.mask, logprobs, 0.0).sum(-1))
    return torch.cat(parts)


@torch.no_grad()
def text_nll(candidate: Candidate, texts: Sequence[str], block: int) -> tuple[float, int, int]:
    """Σ -log p of texts, each alone and cut into blocks: (nats, tokens predicted, bytes of text)."""
    tokenizer, model = candidate.tokenizer, candidate.model.eval()
    total, tokens = 0.0, 0
    for text in texts:
        ids = tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]
        for start in range(0, len(ids) - 1, block):
            piece = torch.tensor([ids[start : start + block + 1]], device=model.device)
            logits = model(input_ids=piece[:, :-1], use_cache=False).logits
            total -= token_logprobs(logits, piece[:, 1:], 1.0).sum().item()
            tokens += piece.shape[1] - 1
    return total, tokens, sum(len(text.encode()) for text in texts)
