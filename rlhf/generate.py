"""Responses sampled from a policy, in batches; used by PPO's rollouts, by the stages' samples and by the comparison."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from rlhf.data.render import Prompt, prompt_ids

FIRST_BOUT = 16  # tokens


class Response(NamedTuple):
    """What a policy answered. ``ids`` hold the end of sequence where the response ends by itself."""

    text: str
    ids: list[int]
    ended: bool


class Sampled(NamedTuple):
    """Response ids, and the log-probability of each under the distribution that it was drawn from."""

    ids: list[int]
    logprobs: list[float]


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    max_prompt_length: int | None,
    max_response_length: int,
    temperature: float,
    seed: int,
    batch_size: int,
) -> list[Response]:
    """One response to each prompt, in the order of the prompts.

    Lengths are in tokens. Tokens are drawn from softmax(logits / temperature), without top-k, top-p or penalties,
    whatever the model's own generation config says; temperature 0 takes the most likely token.
    """
    rows = [prompt_ids(tokenizer, prompt, max_prompt_length) for prompt in prompts]
    ends = end_ids(model, tokenizer)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    responses: dict[int, Response] = {}
    with sampling_mode(model), seeded(seed):
        for start in range(0, len(rows), batch_size):
            chosen = order[start : start + batch_size]
            sampled = sample_ids(
                model, [rows[i] for i in chosen], ends, tokenizer.pad_token_id, max_response_length, temperature
            )
            for i, ids in zip(chosen, sampled, strict=True):
                text = response_text(tokenizer, prompts[i], ids)
                responses[i] = Response(text, ids, bool(ids) and ids[-1] in ends)
    return [responses[i] for i in range(len(rows))]


def response_text(tokenizer: Any, prompt: Prompt, ids: Sequence[int]) -> str:
    """The text of a response, so that prompt and text, rendered, give the same tokens again.

    After a string a blank between the two belongs to the response; in a conversation it belongs to the template.
    """
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return text if isinstance(prompt, str) else text.strip()


def end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Every token that ends a response: the tokenizer's and those of the model's generation config."""
    own = getattr(model.generation_config, "eos_token_id", None)
    return {tokenizer.eos_token_id, *(own if isinstance(own, list) else [] if own is None else [own])}


def sample_ids(
    model: Any, rows: Sequence[Sequence[int]], ends: set[int], pad: int, length: int, temperature: float
) -> list[list[int]]:
    """The ids of ``sample`` alone."""
    return [ids for ids, _ in sample(model, rows, ends, pad, length, temperature)]


def sample(
    model: Any, rows: Sequence[Sequence[int]], ends: set[int], pad: int, length: int, temperature: float
) -> list[Sampled]:
    """Responses to prompts of different lengths, up to and including the first end of sequence.

    Rows that have ended would be computed to the end of the longest. So responses grow in bouts that double, and only
    rows without an end take part in the next, for which the prompts and what there is of the responses are read again.
    """
    responses = [Sampled([], []) for _ in rows]
    unfinished, reached = list(range(len(rows))), 0
    while unfinished and reached < length:
        bout = min(max(reached, FIRST_BOUT), length - reached)
        found = sample_bout(model, [[*rows[i], *responses[i].ids] for i in unfinished], ends, pad, bout, temperature)
        for i, more in zip(unfinished, found, strict=True):
            responses[i].ids.extend(more.ids)
            responses[i].logprobs.extend(more.logprobs)
        unfinished = [i for i in unfinished if responses[i].ids[-1] not in ends]
        reached += bout
    return responses


@torch.no_grad()
def sample_bout(
    model: Any, rows: Sequence[Sequence[int]], ends: set[int], pad: int, length: int, temperature: float
) -> list[Sampled]:
    """Up to ``length`` ids after each row, padded on the left so that they start in one column; masks from lengths."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    greedy = temperature == 0
    config = GenerationConfig(
        max_new_tokens=length,
        do_sample=not greedy,
        eos_token_id=sorted(ends),
        pad_token_id=pad,
        **({} if greedy else {"temperature": temperature, "top_k": 0, "top_p": 1.0}),
    )
    recorder = Recorder(1.0 if greedy else temperature)
    with generation_config(model, config):
        output = model.generate(input_ids=ids, attention_mask=mask, logits_processor=LogitsProcessorList([recorder]))
    drawn = output[:, width:]
    responses = [cut(row, ends) for row in drawn.tolist()]
    logprobs = recorder.logprobs(drawn).tolist()
    return [Sampled(row, found[: len(row)]) for row, found in zip(responses, logprobs, strict=True)]


class Recorder(LogitsProcessor):
    """Notes the log-probability of each token as it is drawn: of a whole batch's logits one step is kept, not all."""

    def __init__(self, temperature: float):
        self.temperature = temperature
        self.last: torch.Tensor | None = None  # (B, V)  log-probabilities of the step whose token is not known yet
        self.columns: list[torch.Tensor] = []  # (B,)  of the tokens so far

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.last is not None:
            self.columns.append(self.last.gather(1, input_ids[:, -1:])[:, 0])
        # transformers hands over the logits before its own warpers divide them.
        self.last = torch.log_softmax(scores.float() / self.temperature, dim=-1)
        return scores

    def logprobs(self, drawn: torch.Tensor) -> torch.Tensor:
        """Those of the ``drawn`` tokens, (B, T) -> (B, T); what follows an end of sequence means nothing."""
        if len(self.columns) < drawn.shape[1]:
            self.columns.append(self.last.gather(1, drawn[:, -1:])[:, 0])
        return torch.stack(self.columns[: drawn.shape[1]], dim=1)


def cut(row: list[int], ends: set[int]) -> list[int]:
    """``row`` up to and including its first end of sequence."""
    for i, token in enumerate(row):
        if token in ends:
            return row[: i + 1]
    return row


@contextmanager
def generation_config(model: Any, config: GenerationConfig) -> Iterator[None]:
    """``config`` in the place of the model's own, which comes back.

    Given to ``model.generate``, what ``config`` leaves open would be filled in from the model's own: a repetition
    penalty, say, or a minimal length, and the responses would not be the policy's.
    """
    plain = model.get_base_model() if hasattr(model, "peft_config") else model
    own, plain.generation_config = plain.generation_config, config
    try:
        yield
    finally:
        plain.generation_config = own


@contextmanager
def sampling_mode(model: Any) -> Iterator[None]:
    """Dropout off while sampling; the mode that the model was in comes back."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a stream of its own, so that sampling in between leaves training's random numbers as they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
