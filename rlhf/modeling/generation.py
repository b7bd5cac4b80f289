"""Sampling of responses in batches, for PPO's rollouts, the stages' samples and the comparison."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from rlhf.console import console
from rlhf.data import templates
from rlhf.data.render import Prompt, fitting_ids
from rlhf.hardware import ranks
from rlhf.modeling.decoding import Decoding, Sampled
from rlhf.modeling.foreign import positions
from rlhf.modeling.vocabulary import logits_in_parts

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # at the end of a text whose last character lacks bytes


class Response(NamedTuple):
    """A sampled response. ``ids`` include the end of sequence if ``ended``."""

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
    shared: bool = False,
) -> list[Response]:
    """Return one response to each prompt, in the order of the prompts.

    ``shared``: the processes of a run divide the batches, and each returns all responses.

    Lengths are in tokens. Prompts are cut at their beginning to fit the model's positions. Tokens are drawn from
    softmax(logits / temperature), without top-k, top-p or penalties; the model's generation config is ignored.
    Temperature 0 takes the most likely token.
    """
    longest = _longest_prompt(model, max_prompt_length, max_response_length)
    rows, cut = fitting_ids(tokenizer, prompts, longest)
    if cut and ranks.is_main():
        cause = f"are longer than {longest} tokens, cut at their beginning"
        console.print(f"{cut} of {len(rows)} prompts {cause}", style="dim", highlight=False, soft_wrap=True)
    ends = end_ids(model, tokenizer)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    responses: dict[int, Response] = {}
    with sampling_mode(model), seeded(seed):
        for number, start in enumerate(range(0, len(rows), batch_size)):
            chosen = order[start : start + batch_size]
            if shared and number % ranks.size() != ranks.rank():
                if temperature:
                    torch.rand(len(chosen), max_response_length)  # the other process draws these
                continue
            sampled = sample_ids(
                model, [rows[i] for i in chosen], ends, tokenizer.pad_token_id, max_response_length, temperature
            )
            for i, ids in zip(chosen, sampled, strict=True):
                text = response_text(tokenizer, prompts[i], ids)
                responses[i] = Response(text, ids, bool(ids) and ids[-1] in ends)
    if shared:
        responses = {i: response for part in ranks.gathered(responses) for i, response in part.items()}
    return [responses[i] for i in range(len(rows))]


def stream(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    show: Callable[[str], None],
    *,
    max_prompt_length: int | None,
    max_response_length: int,
    temperature: float,
    seed: int,
) -> Response:
    """Return the response of `generate` to one prompt, and call ``show`` with each piece of its text once it is drawn.

    A piece ends with a whole character. An exception of ``show`` ends the response.
    """
    longest = _longest_prompt(model, max_prompt_length, max_response_length)
    [ids], _ = fitting_ids(tokenizer, [prompt], longest)
    ends, drawn, shown = end_ids(model, tokenizer), [], ""

    def follow(row: int, token: int) -> None:
        nonlocal shown
        drawn.append(token)
        text = response_text(tokenizer, prompt, drawn)
        piece = text[len(shown) :]
        if piece and text.startswith(shown) and not text.endswith(INCOMPLETE):
            shown = text
            show(piece)

    with sampling_mode(model), seeded(seed):
        [found] = sample(model, [ids], ends, tokenizer.pad_token_id, max_response_length, temperature, follow=follow)
    text = response_text(tokenizer, prompt, found.ids)
    if text.startswith(shown) and text != shown:
        show(text[len(shown) :])
    return Response(text, found.ids, found.ids[-1] in ends)


def _longest_prompt(model: Any, most: int | None, response: int) -> int | None:
    """Return the largest length of a prompt: ``most``, or the model's positions less those of the response."""
    limits = [most, None if (found := positions(model)) is None else found - response]
    return min((limit for limit in limits if limit is not None), default=None)


def response_text(tokenizer: Any, prompt: Prompt, ids: Sequence[int]) -> str:
    """Return the text of a response; prompt and text, rendered, have the same tokens again.

    A blank between prompt and response belongs to the response of a string, and to the template of a conversation.
    """
    closed = bool(ids) and ids[-1] in templates.turn_ends(tokenizer)  # the token may not be a special one
    kept = list(ids[:-1] if closed else ids)
    if not isinstance(prompt, str) or templates.strings_are_turns(tokenizer):
        return tokenizer.decode(kept, skip_special_tokens=True).strip()
    text = tokenizer.decode(kept, skip_special_tokens=True)
    special = set(tokenizer.all_special_ids)  # computed anew at each call
    first = next((token for token in kept if token not in special), None)
    if first is None or not tokenizer.convert_ids_to_tokens(first).startswith("▁"):
        return text
    before = tokenizer("a", add_special_tokens=False)["input_ids"]  # Llama 2's decoder drops a blank at the beginning
    whole = tokenizer.decode([*before, *kept], skip_special_tokens=True)
    return whole[len(tokenizer.decode(before, skip_special_tokens=True)) :]


def end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Return the tokens that end a response; see rlhf.data.templates.end_ids."""
    return set(templates.end_ids(model, tokenizer))


def sample_ids(
    model: Any, rows: Sequence[Sequence[int]], ends: set[int], pad: int, length: int, temperature: float
) -> list[list[int]]:
    """Return only the token ids of ``sample``."""
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
    follow: Callable[[int, int], None] | None = None,
) -> list[Sampled]:
    """Return responses to prompts of different lengths, up to and including the first end of sequence.

    A token is the first whose cumulative probability reaches a uniform number (inverse transform sampling, Devroye
    1986, chapter 3). The uniform numbers, one row per response, are drawn first, from torch's CPU generator, so a
    response does not depend on batch size or order. Temperature 0 takes the most likely token. ``at_once`` is the
    largest number of rows with a cache at a time; None: all rows. ``head`` maps the hidden states (B, h) that tokens
    are drawn from to values (B,). ``follow`` is called with the row and the token of each draw.
    """
    uniforms = 1 - torch.rand(len(rows), length) if temperature else torch.empty(len(rows), 0)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    responses = [Sampled([], []) for _ in rows]
    step = at_once or max(len(rows), 1)
    for start in range(0, len(rows), step):
        chosen = order[start : start + step]
        each = None if follow is None else lambda row, token, chosen=chosen: follow(chosen[row], token)
        batch = Decoding(model, [rows[i] for i in chosen], uniforms[chosen], pad, length, temperature, head, each)
        with logits_in_parts(model):
            decoded = batch.run(ends)
        for i, found in zip(chosen, decoded, strict=True):
            responses[i] = found
    return responses


def cut(row: list[int], ends: set[int]) -> list[int]:
    """Return ``row`` up to and including its first end of sequence."""
    for i, token in enumerate(row):
        if token in ends:
            return row[: i + 1]
    return row


@contextmanager
def sampling_mode(model: Any) -> Generator[None]:
    """Switch dropout off while sampling, then restore the model's mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Draw from a separate random stream, so that sampling does not change the random numbers of training."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
