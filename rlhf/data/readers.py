"""Layouts in which a row is one demonstration, one pair, one prompt or one text.

A reader returns all fields that a row of its layout has; rlhf.data.formats takes those that a kind of data needs.
"""

from collections.abc import Sequence

from rlhf.console import plural
from rlhf.data import rows, transcripts
from rlhf.data.render import Message
from rlhf.data.rows import Row, RowError, assistant, has, user

PAIR = ("prompt", "chosen", "rejected")
QUESTIONS = (
    "prompt",
    "instruction",
    "question",
    "query",
    "input",
    "trajectory",
    "context",
)  # the first is the question
DIALOGUES = ("messages", "conversation")
ANSWERS = ("completion", "output", "response", "answer")
BETTER, WORSE = ("chosen", "chosen_response"), ("rejected", "rejected_response")
OPENING_WORDS = (2, 8)  # prompts of 2 to 8 tokens: Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, appendix C.1


def opening(text: str) -> tuple[str, str]:
    """Split a plain text into prompt and completion: its first two to eight words, by its hash, and the rest."""
    shortest, longest = OPENING_WORDS
    words = shortest + int(rows.unit_hash(0, text) * (longest - shortest + 1))
    head = text.split(maxsplit=words)[:words]
    end = 0
    for word in head:
        end = text.index(word, end) + len(word)
    return text[:end], text[end:]


def demonstration(messages: list[Message]) -> Row:
    """Return all turns but the last as the prompt; a dialogue that ends with the user is only a prompt."""
    if messages[-1]["role"] != "assistant":
        return {"prompt": messages}
    return {"prompt": messages[:-1], "completion": messages[-1:]}


def first(row: Row, names: Sequence[str]) -> str | None:
    """Return the first of the columns ``names`` that the row has."""
    return next((name for name in names if has(row, name)), None)


def is_asked(row: Row) -> bool:
    """Return whether a question or an answer is in a column that TRL does not know: see `read_alpaca`."""
    name = first(row, QUESTIONS[:-1])
    if name is None or has(row, "messages") or has(row, "text"):
        return False
    return name != "prompt" or any(has(row, answer) for answer in ("output", "response", WORSE[1]))


def asked(row: Row) -> list[Message]:
    """Return the question as messages: a text, transcript or conversation, with its input, system, history and context.

    Raises:
        RowError: the question is missing or has another type.
    """
    name = first(row, QUESTIONS) or "prompt"
    value = row.get(name)
    if isinstance(value, dict):  # OpenAI's request, WebGPT's question
        named = "messages" if "messages" in value else "full_text"
        found = rows.conversation(value, named) if named == "messages" else [user(rows.text(value, named))]
        if tools := rows.tools(value.get("tools")):
            found[0] = found[0] | {"tools": tools}
    elif isinstance(value, list):
        found = rows.conversation(row, name)
    elif transcripts.is_transcript(value):
        found = transcripts.prompt(value)
    else:
        columns = (name, "input") if name != "input" and isinstance(row.get("input"), str) else (name,)
        found = [user("\n\n".join(part for column in columns if (part := rows.text(row, column)).strip()))]
    return found if name == "context" else rows.in_context(row, {"prompt": found})["prompt"]


def answer(row: Row, name: str) -> list[Message]:
    """Return the response in a column that holds text, a message or messages."""
    value = row.get(name)
    if isinstance(value, list):
        return rows.conversation(row, name)
    return [rows.message(value, name)] if isinstance(value, dict) else [assistant(rows.text(row, name))]


def read_standard(row: Row) -> Row:
    """Read TRL's types, standard or conversational; ``messages``; or plain ``text``, whose opening is a prompt.

    ms-swift adds ``rejected_response`` to messages, whose last answer is then the better one.
    """
    given = [field for field in PAIR if has(row, field)]
    found: Row = {field: rows.text_or_conversation(row, field) for field in given}
    chosen, rejected = found.get("chosen"), found.get("rejected")
    if "prompt" not in found and isinstance(chosen, str) and isinstance(rejected, str):
        found |= dict(zip(PAIR, transcripts.split_text(chosen, rejected), strict=True))
    if has(row, "completion"):
        found["completion"] = rows.text_or_conversation(row, "completion")
    elif (name := first(row, DIALOGUES)) and "chosen" not in found:
        found |= demonstration(rows.conversation(row, name))
        if has(row, WORSE[1]) and "completion" in found:
            found |= {"chosen": found.pop("completion"), "rejected": answer(row, WORSE[1])}
    if has(row, "prompt") or first(row, DIALOGUES):
        found = rows.in_context(row, found)
    if has(row, "text"):
        found["text"] = text = rows.text(row, "text")
        prompt = found.get("prompt")
        if prompt is None:
            found["prompt"], found["completion"] = opening(text)
        elif "completion" not in found and isinstance(prompt, str) and text.startswith(prompt):
            found["completion"] = text[len(prompt) :]
    return found


def read_hh(row: Row) -> Row:
    """Read Anthropic HH: two transcripts, whose longest common prefix is the prompt, or a prompt and two answers."""
    if has(row, "prompt"):
        return {"prompt": asked(row)} | {
            field: [assistant(rows.text(row, field).strip())] for field in ("chosen", "rejected") if has(row, field)
        }
    dialogues = [transcripts.turns(rows.text(row, field), field) for field in ("chosen", "rejected")]
    return dict(zip(PAIR, transcripts.split_at_divergence(*dialogues), strict=True))


def read_ultrafeedback(row: Row) -> Row:
    """Read binarized UltraFeedback: two conversations, whose longest common prefix is the prompt, or two answers."""
    dialogues = [rows.conversation(row, field) for field in ("chosen", "rejected")]
    if first(row, QUESTIONS) and all(dialogue[0]["role"] == "assistant" for dialogue in dialogues):
        return dict(zip(PAIR, (asked(row), *dialogues), strict=True))
    return dict(zip(PAIR, transcripts.split_at_divergence(*dialogues), strict=True))


def read_tldr_comparisons(row: Row) -> Row:
    """Read OpenAI's comparisons of summaries (Stiennon et al. 2020, https://arxiv.org/abs/2009.01325).

    The prompt is written as in the TL;DR demonstrations, so that both look alike to a policy.
    """
    info, summaries = row.get("info"), row.get("summaries")
    if not isinstance(info, dict):
        raise RowError("info", f"must be an object with the post, got {type(info).__name__}")
    if not isinstance(summaries, list) or len(summaries) != 2 or not all(isinstance(s, dict) for s in summaries):
        raise RowError("summaries", "must be a list of two objects with a text each")
    choice = row.get("choice")
    if not isinstance(choice, int) or choice not in (0, 1):
        raise RowError("choice", f"must be 0 or 1, got {rows.shown(choice)}")
    title = rows.text(info, "title")
    if has(info, "post"):
        body = f"SUBREDDIT: r/{rows.text(info, 'subreddit')}\n\nTITLE: {title}\n\nPOST: {rows.text(info, 'post')}"
    else:
        body = f"TITLE: {title}\n\n{rows.text(info, 'article')}"
    chosen, rejected = (rows.text(summaries[i], "text") for i in (choice, 1 - choice))
    return {"prompt": f"{body}\n\nTL;DR:", "chosen": chosen, "rejected": rejected}


def read_alpaca(row: Row) -> Row:
    """Read Alpaca (instruction, input, output), under any names of question and answer, and pairs of answers.

    LLaMA-Factory's rankings have chosen and rejected, or both as a list in output; in ms-swift's, the response is the
    better one.
    """
    found: Row = {"prompt": asked(row)}
    name = first(row, ANSWERS)
    if isinstance(row.get("output"), list):
        if len(row["output"]) != 2:
            got = plural(len(row["output"]), "text")
            raise RowError("output", f"must be a text, or the good and the bad one, got {got}")
        texts = [assistant(rows.checked_text(text, "output")) for text in row["output"]]
        return found | {"chosen": texts[:1], "rejected": texts[1:]}
    worse = first(row, WORSE)
    better = first(row, BETTER) or (name if worse else None)
    columns = {"completion": None if better or worse else name, "chosen": better, "rejected": worse}
    return found | {to: answer(row, column) for to, column in columns.items() if column is not None}


def read_sharegpt(row: Row) -> Row:
    """Read ShareGPT conversations (from, value): a demonstration, or the prompt of ``chosen`` and ``rejected``."""
    messages = rows.conversation(row, "conversations")
    if not has(row, "chosen") and not has(row, "rejected"):
        return rows.in_context(row, demonstration(messages))
    answers = {field: answer(row, field) for field in ("chosen", "rejected") if has(row, field)}
    return rows.in_context(row, {"prompt": messages} | answers)
