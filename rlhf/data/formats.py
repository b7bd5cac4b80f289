"""Every layout in which people keep preference data, read as one: TRL's types with an explicit prompt.

    preferences      {prompt, chosen, rejected}      text: {text}
    demonstrations   {prompt, completion}            prompts: {prompt}

Prompt and completions are strings (standard) or lists of ``{"role", "content"}`` messages (conversational). A reader
turns a row of its layout into whatever of these fields the row can give; `convert` then takes what a kind of data
needs, so preference pairs serve as prompts, and as demonstrations (the chosen completions), too.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

from rlhf.config import Format
from rlhf.data import rows, transcripts
from rlhf.data.render import Message
from rlhf.data.rows import Row, RowError, has

Kind = Literal["text", "demonstrations", "preferences", "prompts"]
KINDS: tuple[str, ...] = get_args(Kind)
FIELDS: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "demonstrations": ("prompt", "completion"),
    "preferences": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt",),
}
NEEDS = {
    "text": "every row of text needs text",
    "demonstrations": "every demonstration needs prompt and completion, or messages",
    "preferences": "every preference pair needs prompt, chosen and rejected",
    "prompts": "every row of prompts needs prompt",
}
EXTRAS = ("task", "source", "fact", "format", "held_out", "group")  # kept where a row has them
INSTRUCTIONS = ("instruction_id_list", "kwargs")  # of a prompt, likewise
SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"))
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


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def demonstration(messages: list[Message]) -> Row:
    """All turns but the last as the prompt; of a dialogue that the user ends there is only a prompt."""
    if messages[-1]["role"] != "assistant":
        return {"prompt": messages}
    return {"prompt": messages[:-1], "completion": messages[-1:]}


def read_standard(row: Row) -> Row:
    """TRL's own types, standard or conversational; ``messages``; or plain ``text``, whose opening is a prompt."""
    given = [field for field in ("prompt", "chosen", "rejected") if has(row, field)]
    found = {field: rows.text_or_conversation(row, field) for field in given}
    if has(row, "completion"):
        found["completion"] = rows.text_or_conversation(row, "completion")
    elif has(row, "messages") and "chosen" not in found:
        found |= demonstration(rows.conversation(row, "messages"))
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
    return dict(zip(FIELDS["preferences"], transcripts.split_at_divergence(*dialogues), strict=True))


def read_ultrafeedback(row: Row) -> Row:
    """Binarised UltraFeedback: two whole conversations, whose longest common prefix is the prompt."""
    dialogues = [rows.conversation(row, field) for field in ("chosen", "rejected")]
    return dict(zip(FIELDS["preferences"], transcripts.split_at_divergence(*dialogues), strict=True))


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
    """Alpaca (instruction, input, output) and LLaMA-Factory's ranking layout of it (chosen, rejected), as dialogues."""
    question = rows.text(row, "instruction")
    if has(row, "input") and rows.text(row, "input").strip():
        question += "\n\n" + row["input"]
    prompt = [user(question)]
    if has(row, "history"):
        if not isinstance(row["history"], list) or not all(isinstance(t, list) and len(t) == 2 for t in row["history"]):
            raise RowError("history", "must be a list of [question, answer] pairs")
        texts = [[rows.checked_text(text, "history") for text in pair] for pair in row["history"]]
        prompt = [turn for ask, answer in texts for turn in (user(ask), assistant(answer))] + prompt
    if has(row, "system") and rows.text(row, "system"):
        prompt = [{"role": "system", "content": row["system"]}, *prompt]
    named = {"output": "completion", "chosen": "chosen", "rejected": "rejected"}
    return {"prompt": prompt} | {to: [assistant(rows.text(row, by))] for by, to in named.items() if has(row, by)}


def read_sharegpt(row: Row) -> Row:
    """ShareGPT conversations (from, value), alone or as the prompt of ``chosen`` and ``rejected``."""
    messages = rows.conversation(row, "conversations")
    if not has(row, "chosen") and not has(row, "rejected"):
        return demonstration(messages)
    answers = {field: _answer(row, field) for field in ("chosen", "rejected") if has(row, field)}
    return {"prompt": messages} | answers


def _answer(row: Row, field: str) -> list[Message]:
    value = row[field]
    if isinstance(value, str):
        return [assistant(rows.text(row, field))]
    return rows.conversation(row, field) if isinstance(value, list) else [rows.message(value, field)]


READERS: dict[Format, Callable[[Row], Row]] = {
    Format.standard: read_standard,
    Format.hh: read_hh,
    Format.ultrafeedback: read_ultrafeedback,
    Format.tldr_comparisons: read_tldr_comparisons,
    Format.alpaca: read_alpaca,
    Format.sharegpt: read_sharegpt,
}


def detect(row: Row) -> tuple[Format, str]:
    """The format that a row is in and, as a clause, why: decided by its columns and the types of their values."""
    if has(row, "info", "summaries", "choice"):
        return Format.tldr_comparisons, "it has info, summaries and choice"
    if has(row, "conversations"):
        return Format.sharegpt, "it has conversations"
    if has(row, "instruction") and not has(row, "prompt"):
        return Format.alpaca, "it has instruction and no prompt"
    chosen, rejected, prompt = row.get("chosen"), row.get("rejected"), row.get("prompt")
    if prompt is None and transcripts.is_transcript(chosen) and transcripts.is_transcript(rejected):
        return Format.hh, "chosen and rejected are 'Human: / Assistant:' transcripts and there is no prompt"
    if isinstance(chosen, list) and isinstance(rejected, list) and not isinstance(prompt, list):
        return Format.ultrafeedback, "chosen and rejected are conversations that include the prompt"
    found = [field for field in ("prompt", "chosen", "rejected", "completion", "messages", "text") if has(row, field)]
    return Format.standard, f"it has {', '.join(found)}" if found else "no other format has its columns"


def convert(row: Row, layout: Format, kind: Kind) -> Row:
    """Read one row of ``layout`` (never auto) as a row of ``kind``, with the optional fields that it has.

    Raises:
        RowError: a field is missing, of the wrong type or empty, or chosen and rejected are of different types.
    """
    if kind == "demonstrations" and not has(row, "chosen") and isinstance(row.get("label"), bool):
        raise RowError("label", "marks completions as good or bad, and bad ones are no demonstrations: use preferences")
    found = READERS[layout](row)
    if kind == "demonstrations" and "completion" not in found and "chosen" in found:
        found["completion"] = found["chosen"]
    for field in FIELDS[kind]:
        if field not in found:
            raise RowError(field, f"is missing; {NEEDS[kind]}")
    result = {field: found[field] for field in FIELDS[kind]}
    if "prompt" in result and (not result["prompt"] or rows.is_blank(result["prompt"])):
        raise RowError("prompt", f"is empty; {NEEDS[kind]}")
    types = {field: type(value) for field, value in result.items()}
    if len(set(types.values())) > 1:
        described = ", ".join(f"{f} is {'a conversation' if t is list else 'text'}" for f, t in types.items())
        raise RowError(next(reversed(types)), f"must be of the prompt's type: {described}")
    return result | extras(row, kind)


def extras(row: Row, kind: Kind) -> dict[str, Any]:
    """Optional fields to keep: labels, and for a pair its margin and the annotator's confidence."""
    kept: dict[str, Any] = {field: row[field] for field in EXTRAS if _is_label(row.get(field))}
    if kind == "preferences":
        nested = row["extra"] if isinstance(row.get("extra"), dict) else {}
        confidence = _number_or_none(row if has(row, "confidence") else nested, "confidence")
        numbers = {"margin": margin(row), "confidence": confidence}
        kept |= {field: value for field, value in numbers.items() if value is not None}
    if kind == "prompts" and has_instructions(row):
        kept |= {field: row[field] for field in INSTRUCTIONS}
    return kept


def has_instructions(row: Row) -> bool:
    """Whether a prompt says, as IFEval's do, what a program can check of its response."""
    kinds, arguments = (row.get(field) for field in INSTRUCTIONS)
    lists = isinstance(kinds, list) and isinstance(arguments, list) and len(kinds) == len(arguments)
    return lists and all(isinstance(kind, str) for kind in kinds)


def margin(row: Row) -> float | None:
    """How much better the chosen completion is, in the units of the data set; None where it does not say.

    It is the given margin, else the difference of two scores, else the strength of the preference.

    Raises:
        RowError: margin or a score is no number.
    """
    if has(row, "margin"):
        return rows.number(row, "margin")
    for chosen, rejected in SCORES:
        if has(row, chosen, rejected):
            return rows.number(row, chosen) - rows.number(row, rejected)
    return _number_or_none(row, "strength")


def _number_or_none(row: Row, field: str) -> float | None:
    """A number under a name that other data sets use for anything."""
    try:
        return rows.number(row, field)
    except RowError:
        return None


def _is_label(value: Any) -> bool:
    """Whether an optional field is a plain name, flag or number; under the same name other data sets keep anything."""
    if isinstance(value, str):
        return value.isprintable()  # also False for half a surrogate pair
    return isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63)
