"""Text and conversations as the tokens that a model sees.

A prompt is a string (the standard type) or a list of ``{"role", "content"}`` messages (the conversational type), which
may also have `templates.EXTRAS`; its first message has the definitions of the conversation's ``tools``, as JSON text. A
conversation is rendered by the tokenizer's chat template, with the marker that opens the assistant's turn. A string is
plain text, unless `strings_are_turns`: then it is one user message, and a string completion is the answer.

Text of people is data: if a prompt or a completion contains the text of a special token, such as "<|im_end|>" or
"</s>", it is encoded as that text and never as the token, so that nobody can end or open a turn by writing its mark.
The only exception is an end of sequence at the very end of a string completion.
"""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rlhf.data.bounds import token_ids
from rlhf.data.templates import Message, Prompt, check_read, strings_are_turns, templated
from rlhf.errors import DataError


def question(prompt: Prompt) -> str:
    """Return the last text of a prompt: a string prompt itself, or the content of the last message."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def as_turns(prompt: Prompt, role: str = "user", end: str = "") -> list[Message]:
    """Return a prompt, or a completion for the role "assistant", as messages, a string without ``end`` at its end."""
    return prompt if not isinstance(prompt, str) else [{"role": role, "content": prompt.removesuffix(end).strip()}]


def prompt_ids(tokenizer: Any, prompt: Prompt, max_length: int | None = None) -> list[int]:
    """Return at most ``max_length`` token ids of a prompt: a string or a conversation's turns lose their beginning.

    Raises:
        DataError: the prompt has no tokens, or the parts that are not cut fill ``max_length``.
        ModelError: the prompt is a conversation and the chat template is missing or refuses it.
    """
    [[ids], _] = fitting_ids(tokenizer, [prompt], max_length)
    return ids


def fitting_ids(tokenizer: Any, prompts: Sequence[Prompt], most: int | None) -> tuple[list[list[int]], int]:
    """Return the ``prompt_ids`` of prompts of one type, and the number of prompts that were cut."""
    rows, cut = encode(tokenizer, prompts), 0
    for i, ids in enumerate(rows):
        if not ids:
            raise DataError(f"the prompt {prompts[i]!r} is empty: there is no token to continue from")
        if most is not None and len(ids) > most:
            text = isinstance(prompts[i], str) and not strings_are_turns(tokenizer)
            rows[i] = ids[-most:] if text else _shortened(tokenizer, as_turns(prompts[i]), len(ids), most)
            cut += 1
    return rows, cut


def _shortened(tokenizer: Any, talk: list[Message], length: int, most: int) -> list[int]:
    """Cut the beginning of turns, the earliest first, but neither the system message nor the template's tokens."""
    talk = [dict(turn) for turn in talk]
    for turn in (turn for turn in talk if turn["role"] != "system"):
        [tokens] = text_ids(tokenizer, [turn["content"]], add_special_tokens=False)
        dropped = 0
        while length > most and dropped < len(tokens):
            dropped += length - most
            kept = tokenizer.decode(tokens[dropped:], skip_special_tokens=False)
            turn["content"] = kept.lstrip("\N{REPLACEMENT CHARACTER} ")  # half of a character, or the end of a word
            [ids] = encode(tokenizer, [talk])
            length = len(ids)
    if length > most or not talk[-1]["content"]:
        raise DataError(
            f"max_prompt_length={most}: the system message and the chat template take {length} tokens of a prompt, so "
            "that nothing of its question is left: raise it, or use shorter prompts"
        )
    return ids


def encode(
    tokenizer: Any,
    prompts: Sequence[Prompt],
    completions: Sequence[Prompt] | None = None,
    known: dict[str, list[int]] | None = None,
) -> list[list[int]]:
    """Return the token ids of prompts that wait for a response, or of prompts with completions; all of one type.

    A string completion is joined to its prompt and followed by an end of sequence; a conversation ends as in its
    template. The ids are those of TRL's trainers, except that special tokens in texts are text. ``known`` keeps the ids
    of parts for the next call: see rlhf.data.segments.
    """
    if not prompts:
        return []
    if isinstance(prompts[0], str) and not strings_are_turns(tokenizer):
        return _encode_texts(tokenizer, prompts, completions)
    talks = [as_turns(prompt) for prompt in prompts]
    if completions is not None:
        answers = [as_turns(one, "assistant", tokenizer.eos_token or "") for one in completions]
        talks = [[*talk, *answer] for talk, answer in zip(talks, answers, strict=True)]
    for talk in talks:
        check_read(tokenizer, talk)
    if is_framed(tokenizer):  # chat templates do not write an encoder's marks
        options = {"tokenize": False, "add_generation_prompt": completions is None}
        return text_ids(tokenizer, [templated(tokenizer, talk, **options) for talk in talks])
    # The pairs of a ranking share their prompt and their responses: each is rendered and tokenized once.
    keys = [json.dumps(talk) for talk in talks]
    distinct = dict(zip(keys, talks, strict=True))
    pattern = special_pattern(tokenizer)
    marked = {key: holds(pattern, talk) for key, talk in distinct.items()}
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": completions is None}
    alone = {key for key, talk in distinct.items() if marked[key] or "tools" in talk[0]}
    plain = [talk for key, talk in distinct.items() if key not in alone]
    found = iter(templated(tokenizer, plain, known=known, **options)["input_ids"] if plain else [])
    ids = {
        key: templated(tokenizer, talk, sanitize_control_tokens=marked[key], **options)["input_ids"]
        if key in alone
        else next(found)
        for key, talk in distinct.items()
    }
    return [ids[key] for key in keys]


def text_ids(tokenizer: Any, texts: Sequence[str], **options: Any) -> list[list[int]]:
    """Return the token ids of texts, with special tokens as text and without an end of sequence."""
    pattern = special_pattern(tokenizer)
    marked = [holds(pattern, text) for text in texts]
    plain = [text for text, mark in zip(texts, marked, strict=True) if not mark]
    found = iter(token_ids(tokenizer, plain, **options))
    return [
        _open(tokenizer, tokenizer(text, split_special_tokens=True, **options)["input_ids"] if mark else next(found))
        for text, mark in zip(texts, marked, strict=True)
    ]


def _open(tokenizer: Any, ids: list[int]) -> list[int]:
    """Return ``ids`` without the end of sequence that some tokenizers append to every text (add_eos_token)."""
    end = tokenizer.eos_token_id
    return ids[:-1] if end is not None and ids[-1:] == [end] and not is_framed(tokenizer) else ids


def _encode_texts(tokenizer: Any, prompts: Sequence[Any], completions: Sequence[Any] | None) -> list[list[int]]:
    if completions is None:
        return text_ids(tokenizer, prompts)
    end = tokenizer.eos_token or ""  # an encoder has none
    texts = [p + c.removesuffix(end) for p, c in zip(prompts, completions, strict=True)]
    pattern = special_pattern(tokenizer)
    marked = [holds(pattern, text) for text in texts]
    plain = [text + end for text, mark in zip(texts, marked, strict=True) if not mark]
    found = iter(token_ids(tokenizer, plain))
    ends = [tokenizer.eos_token_id] if end else []
    return [
        [*_open(tokenizer, tokenizer(text, split_special_tokens=True)["input_ids"]), *ends]
        if mark
        else _ending_once(next(found), ends)
        for text, mark in zip(texts, marked, strict=True)
    ]


def _ending_once(ids: list[int], ends: list[int]) -> list[int]:
    """Return ``ids`` without the second end of sequence of a tokenizer that appends one."""
    return ids[:-1] if ends and ids[-2:] == ends * 2 else ids


def shared(*rows: list[int]) -> int:
    """Return the number of leading tokens that all rows share, by bisection."""
    first, *others = rows
    low, high = 0, min(map(len, rows))
    while low < high:
        middle = (low + high + 1) // 2
        if all(row[low:middle] == first[low:middle] for row in others):
            low = middle
        else:
            high = middle - 1
    return low


def is_framed(tokenizer: Any) -> bool:
    """Return whether a tokenizer is an encoder's, which frames a text in marks ([CLS] ... [SEP])."""
    return tokenizer.cls_token_id is not None


def holds(pattern: re.Pattern, prompt: Prompt) -> bool:
    """Return whether ``pattern`` occurs in a text, or in a message of a conversation."""
    return any(map(pattern.search, [prompt] if isinstance(prompt, str) else map(whole, prompt)))


def whole(turn: Message) -> str:
    """Return the content of a message with its other parts, such as calls and reasoning, as one text."""
    more = {key: turn[key] for key in turn if key not in ("role", "content", "weight")}
    return turn["content"] + (json.dumps(more, ensure_ascii=False) if more else "")


def special_pattern(tokenizer: Any) -> re.Pattern:
    """Return a pattern of the tokens that are more than text: special ones, and added ones in the template."""
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    added = tokenizer.added_tokens_decoder.values()
    return _pattern(
        tuple(
            token.content
            for token in added
            if token.special or (token.content in template and not token.content.isspace())
        )
    )


@lru_cache(maxsize=8)
def _pattern(texts: tuple[str, ...]) -> re.Pattern:
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) never matches
