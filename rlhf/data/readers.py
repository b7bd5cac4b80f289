"""Layouts in which a row is one demonstration, one pair, one prompt or one text.

A reader turns a row of its layout into whatever fields of these the row can give; rlhf.data.formats takes what a kind
of data needs.
"""

from rlhf.data import rows, transcripts
from rlhf.data.render import Message
from rlhf.data.rows import Row, RowError, assistant, has

PAIR = ("prompt", "chosen", "rejected")
OPENING_WORDS = (2, 8)  # prompts of 2 to 8 tokens: Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, appendix C.1


def opening(text: str) -> tuple[str, str]:
    """Prompt and completion of a plain text: its first two to eight words, a number fixed by the text, and the rest."""
    shortest, longest = OPENING_WORDS
    words = shortest + int(rows.unit_hash(0, text) * (longest - shortest + 1))
    head = text.split(maxsplit=words)[:words]
    end = 0
    for word in head:
        end = text.index(word, end) + len(word)
    return text[:end], text[end:]


def demonstration(messages: list[Message]) -> Row:
    """All turns but the last as the prompt; of a dialogue that the user ends there is only a prompt."""
    if messages[-1]["role"] != "assistant":
        return {"prompt": messages}
    return {"prompt": messages[:-1], "completion": messages[-1:]}


def read_standard(row: Row) -> Row:
    """TRL's own types, standard or conversational; ``messages``; or plain ``text``, whose opening is a prompt."""
    given = [field for field in ("prompt", "chosen", "rejected") if has(row, field)]
    found = {field: rows.text_or_conversation(row, field) for field in given}
    texts = [found.get(field) for field in ("chosen", "rejected")]
    if "prompt" not in found and all(isinstance(text, str) for text in texts):
        found |= dict(zip(PAIR, transcripts.split_text(*texts), strict=True))
    if has(row, "completion"):
        found["completion"] = rows.text_or_conversation(row, "completion")
    elif has(row, "messages") and "chosen" not in found:
        found |= demonstration(rows.conversation(row, "messages"))
    if has(row, "prompt") or has(row, "messages"):
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
    """Anthropic HH: two transcripts, whose longest common prefix of turns is the prompt."""
    dialogues = [transcripts.turns(rows.text(row, field), field) for field in ("chosen", "rejected")]
    return dict(zip(PAIR, transcripts.split_at_divergence(*dialogues), strict=True))


def read_ultrafeedback(row: Row) -> Row:
    """Binarised UltraFeedback: two whole conversations, whose longest common prefix is the prompt."""
    dialogues = [rows.conversation(row, field) for field in ("chosen", "rejected")]
    return dict(zip(PAIR, transcripts.split_at_divergence(*dialogues), strict=True))


def read_tldr_comparisons(row: Row) -> Row:
    """OpenAI's summary comparisons (Stiennon et al. 2020, https://arxiv.org/abs/2009.01325): info, summaries, choice.

    The prompt is rendered as in the TL;DR demonstrations, so that one policy sees both alike.
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
    """Alpaca (instruction, input, output) and LLaMA-Factory's ranking layouts of it: chosen and rejected, or output
    as a list of the two."""
    found: Row = {"prompt": rows.alpaca_prompt(row)}
    given = {"completion": row.get("output"), "chosen": row.get("chosen"), "rejected": row.get("rejected")}
    if isinstance(row.get("output"), list):
        if len(row["output"]) != 2:
            raise RowError("output", f"must be a text, or the good and the bad one, got {len(row['output'])} texts")
        given = dict(zip(("chosen", "rejected"), row["output"], strict=True))
    named = {"completion": "output"}
    return found | {
        to: [assistant(rows.checked_text(value, named.get(to, to)))] for to, value in given.items() if value is not None
    }


def read_sharegpt(row: Row) -> Row:
    """ShareGPT conversations (from, value), alone or as the prompt of ``chosen`` and ``rejected``."""
    messages = rows.conversation(row, "conversations")
    if not has(row, "chosen") and not has(row, "rejected"):
        return rows.in_context(row, demonstration(messages))
    answers = {field: _answer(row, field) for field in ("chosen", "rejected") if has(row, field)}
    return rows.in_context(row, {"prompt": messages} | answers)


def _answer(row: Row, field: str) -> list[Message]:
    value = row[field]
    if isinstance(value, str):
        return [assistant(rows.text(row, field))]
    return rows.conversation(row, field) if isinstance(value, list) else [rows.message(value, field)]
