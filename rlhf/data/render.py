"""Text and conversations as the tokens that a model sees.

A prompt is a string (the standard type) or a list of ``{"role", "content"}`` messages (the conversational type). A
conversation is rendered by the tokenizer's own chat template, with the marker that opens the assistant's turn.

What people wrote is data: where a prompt or a completion holds the text of a special token, such as "<|im_end|>" or
"</s>", it is encoded as that text and never as the token, so that nobody can end a turn or open another one by writing
so. One thing is a convention and no text: an end of sequence at the very end of a string completion.
"""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rlhf.bounds import bounded
from rlhf.errors import DataError, ModelError

LONGEST = 2**28  # characters of the conversations that are rendered at once
Message = dict[str, str]
Prompt = str | list[Message]


def question(prompt: Prompt) -> str:
    """The text that the user sees last: a string prompt itself, or the content of the last message."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def prompt_text(tokenizer: Any, prompt: Prompt) -> str:
    """The prompt as one string, markup of the chat template included: to be shown, not to be tokenised.

    Raises:
        ModelError: the prompt is a conversation and the tokenizer has no chat template, or it refuses the prompt.
    """
    return (
        prompt if isinstance(prompt, str) else _templated(tokenizer, prompt, tokenize=False, add_generation_prompt=True)
    )


def prompt_ids(tokenizer: Any, prompt: Prompt, max_length: int | None = None) -> list[int]:
    """Token ids of a prompt; of one that is longer than ``max_length`` the end is kept, where the question stands.

    Raises:
        DataError: the prompt has no token at all.
        ModelError: the prompt is a conversation and the tokenizer has no chat template, or it refuses the prompt.
    """
    [ids] = encode(tokenizer, [prompt])
    if not ids:
        raise DataError(f"the prompt {prompt!r} is empty: there is no token to continue from")
    return ids if max_length is None else ids[-max_length:]


def encode(tokenizer: Any, prompts: Sequence[Prompt], completions: Sequence[Prompt] | None = None) -> list[list[int]]:
    """Token ids of prompts that wait for a response, or of prompts with their completions; all of one type.

    A string completion is joined to its prompt, and an end of sequence follows; a conversation ends as its template
    has it. These are the ids that TRL's trainers would make, save that special tokens in texts are text.
    """
    if not prompts:
        return []
    if isinstance(prompts[0], str):
        return _encode_texts(tokenizer, prompts, completions)
    talks = prompts if completions is None else [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
    if is_framed(tokenizer):  # no chat template writes an encoder's marks
        options = {"tokenize": False, "add_generation_prompt": completions is None}
        return text_ids(tokenizer, _templated(tokenizer, talks, **options))
    # The pairs of a ranking have their prompt and their responses in common: each is rendered and tokenised once.
    keys = [json.dumps(talk) for talk in talks]
    distinct = dict(zip(keys, talks, strict=True))
    pattern = special_pattern(tokenizer)
    marked = {key: holds(pattern, talk) for key, talk in distinct.items()}
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": completions is None}
    plain = [talk for key, talk in distinct.items() if not marked[key]]
    found = iter(_templated(tokenizer, plain, **options)["input_ids"] if plain else [])
    ids = {
        key: _templated(tokenizer, talk, sanitize_control_tokens=True, **options)["input_ids"]
        if marked[key]
        else next(found)
        for key, talk in distinct.items()
    }
    return [ids[key] for key in keys]


def text_ids(tokenizer: Any, texts: Sequence[str], **options: Any) -> list[list[int]]:
    """Token ids of texts, in which special tokens are text."""
    pattern = special_pattern(tokenizer)
    marked = [holds(pattern, text) for text in texts]
    plain = [text for text, mark in zip(texts, marked, strict=True) if not mark]
    found = iter(tokenizer(plain, **options)["input_ids"] if plain else [])
    return [
        tokenizer(text, split_special_tokens=True, **options)["input_ids"] if mark else next(found)
        for text, mark in zip(texts, marked, strict=True)
    ]


def _encode_texts(tokenizer: Any, prompts: Sequence[str], completions: Sequence[str] | None) -> list[list[int]]:
    if completions is None:
        return text_ids(tokenizer, prompts)
    end = tokenizer.eos_token or ""  # an encoder has none
    texts = [p + c.removesuffix(end) for p, c in zip(prompts, completions, strict=True)]
    pattern = special_pattern(tokenizer)
    marked = [holds(pattern, text) for text in texts]
    plain = [text + end for text, mark in zip(texts, marked, strict=True) if not mark]
    found = iter(tokenizer(plain)["input_ids"] if plain else [])
    ends = [tokenizer.eos_token_id] if end else []
    return [
        [*tokenizer(text, split_special_tokens=True)["input_ids"], *ends] if mark else next(found)
        for text, mark in zip(texts, marked, strict=True)
    ]


def is_framed(tokenizer: Any) -> bool:
    """Whether a tokenizer is an encoder's, which frames a text in marks of its own ([CLS] ... [SEP])."""
    return tokenizer.cls_token_id is not None


def holds(pattern: re.Pattern, prompt: Prompt) -> bool:
    """Whether ``pattern`` is found in a text, or in a message of a conversation."""
    return any(map(pattern.search, [prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt]))


def special_pattern(tokenizer: Any) -> re.Pattern:
    """The texts of tokens that mean more than their text: special ones, and added ones that the template writes."""
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
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) is never found


def _templated(tokenizer: Any, talks: Any, **options: Any) -> Any:
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        raise ModelError(
            "the prompt is a conversation and the tokenizer has no chat template: "
            "give one with model.chat_template=plain or model.chat_template=<file>.jinja"
        )
    try:
        # First the text by itself, within bounds: a tokenizer ends the process where memory does.
        with bounded():
            plain = {"tokenize": False, "add_generation_prompt": options["add_generation_prompt"]}
            found = tokenizer.apply_chat_template(talks, **plain)
        if sum(map(len, [found] if isinstance(found, str) else found)) > LONGEST:
            raise MemoryError(f"it has written more than {LONGEST} characters")
        return tokenizer.apply_chat_template(talks, **options) if options["tokenize"] else found
    except (TimeoutError, MemoryError) as error:
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path or 'the tokenizer'} takes too long or too much memory "
            f"({str(error) or 'out of memory'}): give another one with model.chat_template=<file>.jinja"
        ) from error
    except (TemplateError, ValueError) as error:
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path or 'the tokenizer'} refuses a conversation ({error}): leave "
            "such rows out, or give another template with model.chat_template=plain"
        ) from error
