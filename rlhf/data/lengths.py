"""Rows that are longer than a trainer's ``max_length``, counted before the trainer cuts them.

TRL cuts a long row at its end, and leaves it out where nothing of a response would remain; it says neither. A row that
was cut then looks like one of just that length, so they are counted here, from rows rendered as TRL renders them.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from rlhf.data.render import Prompt, prompt_text

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 1000  # rows that are tokenised at a time; of each only whether it is too long is kept


def overlong(rows: "Dataset", responses: Sequence[str], tokenizer: Any, max_length: int | None) -> tuple[int, int]:
    """Number of rows that are cut, and number of rows that are left out because the prompt alone fills ``max_length``.

    ``responses`` are the columns that stand after the prompt; a pair is cut where one of its two responses is.
    """
    cut, left_out = 0, 0
    for batch in rows.iter(BATCH) if max_length is not None else ():
        prompts = batch["prompt"]
        texts = [_token_ids(tokenizer, prompts, batch[column]) for column in responses]
        for prompt, *whole in zip(prompts, *texts, strict=True):
            if max(map(len, whole)) > max_length:
                filled = _shared(_prompt_ids(tokenizer, prompt), *whole) >= max_length
                cut, left_out = cut + (not filled), left_out + filled
    return cut, left_out


def _token_ids(tokenizer: Any, prompts: Sequence[Prompt], responses: Sequence[Prompt]) -> list[list[int]]:
    """Prompt and response as TRL joins them: text with an end of sequence after it, a talk by its template."""
    if isinstance(prompts[0], str):
        end = tokenizer.eos_token
        ended = [response if response.endswith(end) else response + end for response in responses]
        return tokenizer([prompt + response for prompt, response in zip(prompts, ended, strict=True)])["input_ids"]
    talks = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    return tokenizer.apply_chat_template(talks, tokenize=True, return_dict=True)["input_ids"]


def _prompt_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    return tokenizer(prompt_text(tokenizer, prompt), add_special_tokens=isinstance(prompt, str))["input_ids"]


def _shared(*rows: list[int]) -> int:
    """Number of tokens at the start that all rows share: for TRL the response begins where prompt and row differ."""
    return sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*rows, strict=False)))
