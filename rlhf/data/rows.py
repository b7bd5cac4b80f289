"""One row as a file or the Hub gives it, and the checked access to its fields.

Every reader in rlhf.data works through these functions, so a row is either read or refused with the name of the field.
"""

import hashlib
import json
import math
from typing import Any

from rlhf.data.render import Message, Prompt
from rlhf.errors import DataError

Row = dict[str, Any]

ROLES = ("system", "user", "assistant", "tool")
# The names of ShareGPT, of Open-Assistant and, for the system, of OpenAI; the usual ones are taken as they are.
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "prompter": "user", "developer": "system"}


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


class RowError(DataError):
    """A row cannot be read. The message starts with the field; rlhf.data.load puts file and line before it."""

    def __init__(self, field: str, problem: str):
        super().__init__(f"field '{field}' {problem}")


def has(row: Row, *fields: str) -> bool:
    """Whether all ``fields`` are there. null counts as absent: Parquet and CSV write a missing value so."""
    return all(row.get(field) is not None for field in fields)


def shown(value: Any) -> str:
    """A value for an error message: short, and never the whole of something nested."""
    return f"{value!r:.40}" if value is None or isinstance(value, str | int | float) else type(value).__name__


def text(row: Row, field: str) -> str:
    """The string in ``field``.

    Raises:
        RowError: it is absent, of another type, or not valid Unicode.
    """
    if not has(row, field):
        raise RowError(field, "is missing")
    return checked_text(row[field], field)


def checked_text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise RowError(field, f"must be text, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(field, "holds half of a surrogate pair, which is no Unicode text: repair or remove it") from None
    return value


def message(value: Any, field: str) -> Message:
    """One turn, from ``{"role", "content"}`` or ShareGPT's ``{"from", "value"}``."""
    if not isinstance(value, dict):
        raise RowError(field, f"must hold messages with role and content, got {type(value).__name__}")
    role_key, content_key = ("from", "value") if "from" in value else ("role", "content")
    role, content = value.get(role_key), value.get(content_key)
    role = SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        known = ", ".join((*ROLES, *SHAREGPT_ROLES))
        raise RowError(field, f"has a message of role {shown(role)}; known are {known}")
    if isinstance(content, list):
        content = _joined(content, f"{field}.{content_key}")
    return {"role": role, "content": checked_text(content, f"{field}.{content_key}")}


def _joined(parts: list[Any], field: str) -> str:
    """The text of a content that is a list of parts, as multi-modal chats have it; anything but text is refused."""
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise RowError(field, f"has a part of type {shown(kind)}, and only text can be read")
    keys = ["value" if part.get("text") is None and "value" in part else "text" for part in parts]
    return "".join(checked_text(part.get(key), f"{field}.{key}") for part, key in zip(parts, keys, strict=True))


def conversation(row: Row, field: str) -> list[Message]:
    """The list of messages in ``field``; at least one.

    Raises:
        RowError: it is absent, no list, empty, or holds something that is no message.
    """
    if not has(row, field):
        raise RowError(field, "is missing")
    value = row[field]
    if not isinstance(value, list):
        raise RowError(field, f"must be a list of messages, got {type(value).__name__}")
    if not value:
        raise RowError(field, "is an empty conversation")
    return [message(item, field) for item in value]


def text_or_conversation(row: Row, field: str) -> Prompt:
    """A string (the standard type) or a list of messages (the conversational type)."""
    return conversation(row, field) if isinstance(row.get(field), list) else text(row, field)


def listed(row: Row, field: str, kind: type, what: str) -> list:
    """The list in ``field``, whose items are all of ``kind``; ``what`` names them.

    Raises:
        RowError: it is absent, no list, or holds something else.
    """
    value = row.get(field)
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise RowError(field, f"must be a list of {what}, got {shown(value)}")
    return value


def number(row: Row, field: str) -> float | None:
    """The finite number in ``field``, None where there is none. CSV has only text, so a number in text is one too."""
    if not has(row, field):
        return None
    value = row[field]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise RowError(field, f"must be a number, got {type(value).__name__}")
    try:
        result = float(value)
    except (ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise RowError(field, f"must be a finite number, got {shown(value)}")
    return result


def needed_number(row: Row, field: str) -> float:
    """The finite number in ``field``.

    Raises:
        RowError: it is absent, or no finite number.
    """
    value = number(row, field)
    if value is None:
        raise RowError(field, "is missing")
    return value


def in_context(row: Row, found: Row) -> Row:
    """``found`` with what stands beside its prompt: ``system`` and ``history`` come before it, ``context`` ends it."""
    prompt = found["prompt"]
    if isinstance(row.get("context"), str) and row["context"].strip():
        prompt = [*prompt[:-1], prompt[-1] | {"content": f"{prompt[-1]['content']}\n\n{text(row, 'context')}"}]
    if has(row, "history"):
        if not isinstance(row["history"], list) or not all(isinstance(t, list) and len(t) == 2 for t in row["history"]):
            raise RowError("history", "must be a list of [question, answer] pairs")
        texts = [[checked_text(part, "history") for part in pair] for pair in row["history"]]
        prompt = [turn for ask, answer in texts for turn in (user(ask), assistant(answer))] + prompt
    if has(row, "system") and text(row, "system"):
        prompt = [{"role": "system", "content": row["system"]}, *prompt]
    return found | {"prompt": prompt}


def is_blank(completion: Prompt) -> bool:
    """Whether a string, or every message of a conversation, has nothing but white space."""
    turns = [completion] if isinstance(completion, str) else [turn["content"] for turn in completion]
    return not any(turn.strip() for turn in turns)


def prompt_key(row: Row) -> str:
    """What makes two rows share a prompt: the prompt itself, or the text of a row that has none."""
    prompt = row["prompt"] if "prompt" in row else row["text"]
    if isinstance(prompt, str):
        return prompt
    return json.dumps([[turn["role"], turn["content"]] for turn in prompt], ensure_ascii=False)


def unit_hash(seed: int, key: str) -> float:
    """A number in [0, 1) that depends on ``seed`` and ``key`` alone: the same in every process and on every machine."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
