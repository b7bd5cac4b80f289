"""Text and conversations as the tokens that a model sees.

A prompt is a string (the standard type) or a list of ``{"role", "content"}`` messages (the conversational type). A
conversation is rendered by the tokenizer's own chat template, with the marker that opens the assistant's turn.
"""

from typing import Any

from rlhf.errors import DataError, ModelError

Message = dict[str, str]
Prompt = str | list[Message]


def question(prompt: Prompt) -> str:
    """The text that the user sees last: a string prompt itself, or the content of the last message."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def prompt_text(tokenizer: Any, prompt: Prompt) -> str:
    """The prompt as one string, markup of the chat template included.

    Raises:
        ModelError: the prompt is a conversation and the tokenizer has no chat template.
    """
    if isinstance(prompt, str):
        return prompt
    if tokenizer.chat_template is None:
        raise ModelError(
            "the prompt is a conversation and the tokenizer has no chat template: "
            "give one with model.chat_template=plain or model.chat_template=<file>.jinja"
        )
    return tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)


def prompt_ids(tokenizer: Any, prompt: Prompt, max_length: int | None = None) -> list[int]:
    """Token ids of a prompt; of one that is longer than ``max_length`` the end is kept, where the question stands.

    Raises:
        DataError: the prompt has no token at all.
    """
    conversation = not isinstance(prompt, str)
    # A chat template writes the begin-of-sequence token itself; adding special tokens again would double it.
    ids = tokenizer(prompt_text(tokenizer, prompt), add_special_tokens=not conversation)["input_ids"]
    if not ids:
        raise DataError(f"the prompt {prompt!r} is empty: there is no token to continue from")
    return ids if max_length is None else ids[-max_length:]
