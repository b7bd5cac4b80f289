"""Responses sampled from a policy, in batches; used by PPO's rollouts, by the stages' samples and by the comparison."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from rlhf.console import console
from rlhf.data import templates
from rlhf.data.render import Prompt, fitting_ids
from rlhf.hardware import ranks
from rlhf.modeling.decoding import Decoding, Sampled
from rlhf.modeling.foreign import positions


class Response(NamedTuple):
    """What a policy answered. ``ids`` hold the end of sequence where the response ends by itself."""

    text: str
    ids: list[int]
    ended: bool


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

    Lengths are in tokens, and of a prompt as many are kept as the model's positions allow. Tokens are drawn from
    softmax(logits / temperature), without top-k, top-p or penalties, whatever the model's own generation config says;
    temperature 0 takes the most likely token.
    """
    limits = [max_prompt_length, None if (most := positions(model)) is None else most - max_response_length]
    longest = min((limit for limit in limits if limit is not None), default=None)
    rows, cut = fitting_ids(tokenizer, prompts, longest)
    if cut and ranks.is_main():
        told = f"are longer than {longest} tokens, cut at their beginning"
        console.print(f"{cut} of {len(rows)} prompts {told}", style="dim", highlight=False, soft_wrap=True)
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
    closed = bool(ids) and ids[-1] in templates.turn_ends(tokenizer)  # by a token that need not be a special one
    text = tokenizer.decode(ids[:-1] if closed else ids, skip_special_tokens=True)
    return text if isinstance(prompt, str) and not templates.strings_are_turns(tokenizer) else text.strip()


def end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Every token that ends a response: see rlhf.data.templates.end_ids."""
    return set(templates.end_ids(model, tokenizer))


def sample_ids(
    model: Any, rows: Sequence[Sequence[int]], ends: set[int], pad: int, length: int, temperature: float
) -> list[list[int]]:
    """The ids of ``sample`` alone."""
    return [one.ids for one in sample(model, rows, ends, pad, length, temperature)]


@torch.no_grad()
def sample(
    model: Any,
    rows: Sequence[Sequence[int]],
    ends: set[int],
    pad: int,
    length: int,
    temperature: float,
    *,
    at_once: int | None = None,
    head: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> list[Sampled]:
    """Responses to prompts of different lengths, up to and including the first end of sequence.

    A token is the first whose cumulated probability reaches a uniform number (inverse transform sampling, Devroye
    1986, chapter 3). All these are drawn before anything is computed, from torch's generator on the CPU, a row of them
    a response: what else is in the batch, and in which order, changes no response. Temperature 0 takes the most likely
    token. ``at_once`` bounds how many rows have a cache at a time; None: all of them. ``head``
    gives values (B,) of the hidden states (B, h) that tokens are drawn from, which are noted beside them.
    """
    uniforms = 1 - torch.rand(len(rows), length) if temperature else torch.empty(len(rows), 0)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    responses = [Sampled([], []) for _ in rows]
    step = at_once or max(len(rows), 1)
    for start in range(0, len(rows), step):
        chosen = order[start : start + step]
        batch = Decoding(model, [rows[i] for i in chosen], uniforms[chosen], pad, length, temperature, head)
        for i, found in zip(chosen, batch.run(ends), strict=True):
            responses[i] = found
    return responses


def cut(row: list[int], ends: set[int]) -> list[int]:
    """``row`` up to and including its first end of sequence."""
    for i, token in enumerate(row):
        if token in ends:
            return row[: i + 1]
    return row


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
