"""One row of a file or the Hub, and checked access to its fields.

Every reader in rlhf.data uses these functions, so a row is either read or refused with the name of the field.
"""

import hashlib
import json
import math
from typing import Any

from rlhf.data.render import Message, Prompt, whole
from rlhf.errors import DataError

Row = dict[str, Any]

ROLES = ("system", "user", "assistant", "tool")
# The names of ShareGPT, of Open-Assistant and, for the system, of OpenAI; other names are unchanged.
SHAREGPT_ROLES = {
    "human": "user", "gpt": "assistant", "prompter": "user", "developer": "system", "observation": "tool",
}  # fmt: skip
CALL = "function_call"  # a role of LLaMA-Factory's ShareGPT; in OpenAI's first form a key beside the content


def user(content: str) -> Message:
    """Return a message of the user."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """Return a message of the assistant."""
    return {"role": "assistant", "content": content}


class RowError(DataError):
    """A row cannot be read. The message starts with the field; rlhf.data.reading adds file and line."""

    def __init__(self, field: str, problem: str):
        super().__init__(f"field '{field}' {problem}")


def has(row: Row, *fields: str) -> bool:
    """Return whether all ``fields`` have a value; null counts as missing, since Parquet and CSV use it for that."""
    return None not in map(row.get, fields)  # called dozens of times per row


def shown(value: Any) -> str:
    """Return a value for an error message: at most 40 characters, and only the type of a nested value."""
    return f"{value!r:.40}" if value is None or isinstance(value, str | int | float) else type(value).__name__


def text(row: Row, field: str) -> str:
    """Return the string in ``field``.

    Raises:
        RowError: it is missing, of another type, or not valid Unicode.
    """
    if not has(row, field):
        raise RowError(field, "is missing")
    return checked_text(row[field], field)


def checked_text(value: Any, field: str) -> str:
    """Return ``value``, which must be text.

    Raises:
        RowError: it is of another type, or not valid Unicode.
    """
    if not isinstance(value, str):
        raise RowError(field, f"must be text, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(field, "has half of a surrogate pair, which is not valid Unicode: repair or remove it") from None
    return value


def message(value: Any, field: str) -> Message:
    """Return one turn, from ``{"role", "content"}`` or ShareGPT's ``{"from", "value"}``."""
    if not isinstance(value, dict):
        raise RowError(field, f"must hold messages with role and content, got {type(value).__name__}")
    role_key, content_key = ("from", "value") if "from" in value else ("role", "content")
    role, content = value.get(role_key), value.get(content_key)
    calls = value.get("tool_calls") or value.get(CALL)
    if role == CALL:
        role, content, calls = "assistant", "", content
    role = SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        known = ", ".join((*ROLES, *SHAREGPT_ROLES))
        raise RowError(field, f"has a message of role {shown(role)}; known are {known}")
    if isinstance(content, list):
        content = _joined(content, f"{field}.{content_key}")
    more = extras(value, field)
    if calls:
        more["tool_calls"] = tool_calls(calls, f"{field}.tool_calls")
        content = "" if content is None else content
    return {"role": role, "content": checked_text(content, f"{field}.{content_key}")} | more


def extras(value: Row, field: str) -> Row:
    """Return the other keys of a message, without its calls; ``weight`` only if it is 0, so not to be learned."""
    names = [name for name in ("tool_call_id", "name", "reasoning_content", "thinking") if value.get(name)]
    found: Row = {name: checked_text(value[name], f"{field}.{name}") for name in names}
    if has(value, "weight"):
        if value["weight"] not in (0, 1):
            raise RowError(f"{field}.weight", f"must be 0 or 1, got {shown(value['weight'])}")
        found |= {} if value["weight"] else {"weight": 0}
    return found


def tool_calls(value: Any, field: str) -> list[Row]:
    """Return calls in OpenAI's form: the arguments are the JSON text of an object, so that numbers are not rounded."""
    value = parsed(value, field)
    found = []
    for call in value if isinstance(value, list) else [value]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowError(field, "must hold calls with a function, its name and its arguments")
        arguments = parsed(function.get("arguments") or {}, f"{field}.arguments")
        if not isinstance(arguments, dict):
            raise RowError(f"{field}.arguments", f"must be an object, got {type(arguments).__name__}")
        written = checked_text(json.dumps(arguments, ensure_ascii=False), f"{field}.arguments")
        id = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        found.append({"type": "function"} | id | {"function": {"name": function["name"], "arguments": written}})
    return found


def parsed(value: Any, field: str) -> Any:
    """Return ``value``, parsed as JSON if it is text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RowError(field, f"must be JSON, got {shown(value)}") from None


def tools(value: Any) -> str | None:
    """Return definitions of tools, a list or its JSON text, as JSON text; None without a definition."""
    found = parsed(value, "tools") if value else None
    if not found:
        return None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise RowError("tools", "must be a list of definitions, each an object with a name and parameters")
    wrapped = [
        one if "function" in one else {"type": "function", "function": one} for one in map(_without_nulls, found)
    ]
    return checked_text(json.dumps(wrapped, ensure_ascii=False), "tools")


def _without_nulls(value: Any) -> Any:
    """Return ``value`` without keys that are null: Parquet adds the keys of all definitions to each."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def as_conversation(found: Row) -> Row:
    """Return ``found`` with a string prompt as one user message and string completions as answers."""
    makers = {"prompt": user, "completion": assistant, "chosen": assistant, "rejected": assistant}
    turned = {name: [make(found[name])] for name, make in makers.items() if isinstance(found.get(name), str)}
    return found | turned


def in_context(row: Row, found: Row) -> Row:
    """Return ``found`` with ``system`` and ``history`` before its prompt and ``context`` at its end."""
    if "prompt" not in found:
        return found
    context = row.get("context")
    if isinstance(context, str) and context.strip():
        *before, last = found["prompt"] if isinstance(found["prompt"], list) else [found["prompt"]]
        added = "\n\n" + text(row, "context")
        last = last + added if isinstance(last, str) else last | {"content": last["content"] + added}
        found = found | {"prompt": last if isinstance(last, str) else [*before, last]}
    if not any(name in row for name in ("system", "history")) and not isinstance(context, list):
        return found
    found = as_conversation(found)
    prompt = found["prompt"]
    if has(row, "history"):
        prompt = [*_history(row), *prompt]
    if isinstance(context, list):
        prompt = [*conversation(row, "context"), *prompt]
    if has(row, "system") and text(row, "system").strip():
        first = {"role": "system", "content": row["system"]}
        if prompt[0]["role"] == "system" and prompt[0] != first:
            raise RowError("system", "differs from the system message of the conversation: keep one of the two")
        prompt = [first, *(prompt[1:] if prompt[0] == first else prompt)]
    return found | {"prompt": prompt}


def _history(row: Row) -> list[Message]:
    """Return earlier turns, from LLaMA-Factory's [question, answer] pairs or from messages."""
    value = row["history"]
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return conversation(row, "history")
    if not isinstance(value, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in value):
        raise RowError("history", "must be a list of [question, answer] pairs")
    texts = [[checked_text(part, "history") for part in pair] for pair in value]
    return [turn for ask, answer in texts for turn in (user(ask), assistant(answer))]


def _joined(parts: list[Any], field: str) -> str:
    """Return the text of a list of parts, as in multi-modal chats; parts that are not text are refused."""
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise RowError(field, f"has a part of type {shown(kind)}, and only text can be read")
    keys = ["value" if part.get("text") is None and "value" in part else "text" for part in parts]
    return "".join(checked_text(part.get(key), f"{field}.{key}") for part, key in zip(parts, keys, strict=True))


def conversation(row: Row, field: str) -> list[Message]:
    """Return the messages in ``field``, at least one.

    Raises:
        RowError: the field is missing, empty or not a list, or an item is not a message.
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
    """Return a string (the standard type) or a list of messages (the conversational type)."""
    return conversation(row, field) if isinstance(row.get(field), list) else text(row, field)


def listed(row: Row, field: str, kind: type, what: str) -> list:
    """Return the list in ``field``, whose items are all of ``kind``; ``what`` names them in the error.

    Raises:
        RowError: the field is missing or not a list, or an item has another type.
    """
    value = row.get(field)
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise RowError(field, f"must be a list of {what}, got {shown(value)}")
    return value


def number(row: Row, field: str) -> float | None:
    """Return the finite number in ``field``, None if it is missing. Text is parsed, since CSV has only text."""
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
    """Return the finite number in ``field``.

    Raises:
        RowError: it is missing or not a finite number.
    """
    value = number(row, field)
    if value is None:
        raise RowError(field, "is missing")
    return value


def is_blank(completion: Prompt) -> bool:
    """Return whether a string, or every message of a conversation, has only white space."""
    turns = [completion] if isinstance(completion, str) else map(whole, completion)
    return not any(turn.strip() for turn in turns)


def prompt_key(row: Row) -> str:
    """Return the key by which rows share a prompt: the prompt, or the text of a row without one."""
    prompt = row["prompt"] if "prompt" in row else row["text"]
    if isinstance(prompt, str):
        return prompt
    return json.dumps([[turn["role"], whole(turn)] for turn in prompt], ensure_ascii=False)


def unit_hash(seed: int, key: str) -> float:
    """Return a number in [0, 1) by ``seed`` and ``key``, the same in every process and on every machine."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
