"""The cells of a row: conversations that are written as text, and columns that no reader looked at."""

import ast
import json
import re
from collections.abc import Iterable
from typing import Any

from rlhf.data import rows
from rlhf.data.rows import Row, RowError

# Columns that hold lists or objects in every layout; text in one of them is JSON, or what Python prints.
NESTED = {"messages", "conversations", "conversation", "conversation_a", "conversation_b", "trajectory", "tools"}
NESTED |= {"responses", "scores", "answers", "completions", "generations", "ratings", "rating", "summaries", "info"}
NESTED |= {"instruction_id_list", "kwargs"}
OPENING = re.compile(r"\s*(?:array\()?\s*[\[{]")
TURN = re.compile(r"""["'](?:role|from)["']\s*:\s*["'](?:system|user|assistant|human|gpt)["']""")
TALK = re.compile(r"""\s*(?:array\()?\s*\[?\s*\{\s*["'](?:role|from|content|value|messages)["']""")
REQUEST = {"messages", "tools", "parallel_tool_calls"}  # what OpenAI's fine-tuning calls an input

RESPONSES = r"(?:response|answer|completion|output|generation|reply|candidate|summary)(?:s|[ _-]?(?:\d|[abjk]|one|two))"
SIDES = r"(?:chosen|rejected|(?:dis|non[ _-])?preferred|better|worse|winning|losing)(?:[ _-].*)?"
VOTES = r"(?:winner|vote|verdict|preference|rank|ranking)s?(?:[ _-].*)?|(?:parent|message)_id"
RATINGS = r"(?:rating|score|reward|helpfulness)s?"
JUDGED = re.compile(f"(?:{RESPONSES}|{SIDES}|{VOTES})", re.IGNORECASE)
RATED = re.compile(RATINGS, re.IGNORECASE)


class Cells(dict[str, Any]):
    """A row that knows which of its columns were asked for."""

    def __init__(self, row: Row):
        super().__init__(row)
        self._asked: set[str] = set()

    def __getitem__(self, column: str) -> Any:
        self._asked.add(column)
        return super().__getitem__(column)

    def get(self, column: str, default: Any = None) -> Any:
        self._asked.add(column)
        return super().get(column, default)

    def unread(self) -> list[str]:
        """The columns that hold something and were not asked for."""
        return [column for column, value in self.items() if value is not None and column not in self._asked]


def unfolded(row: Row) -> Row:
    """``row`` with the conversations and lists that CSV, or a column of text, holds as JSON or as Python prints them.

    Text stays text unless it is a whole conversation, or stands in a column that never holds text.

    Raises:
        RowError: a cell holds turns of a conversation and cannot be parsed.
    """
    texts = [name for name, value in row.items() if isinstance(value, str) and OPENING.match(value)]
    return row if not texts else row | {name: _value(row[name], name) for name in texts}


def _value(text: str, column: str) -> Any:
    talks = TURN.search(text) is not None
    if not talks and column not in (*NESTED, "history"):
        return text
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return value if column in NESTED or _is_talk(value) else text
    if talks and TALK.match(text):
        raise RowError(
            column,
            "looks like a conversation and is neither JSON nor a Python literal: save the rows as JSONL or Parquet",
        )
    return text


def _is_talk(value: Any) -> bool:
    """Whether a value is a message, a list of messages or of (question, answer), or a request with messages."""
    if isinstance(value, dict):
        value = value["messages"] if "messages" in value and value.keys() <= REQUEST else [value]
    return isinstance(value, list) and bool(value) and all(_is_message(one) or _is_exchange(one) for one in value)


def _is_exchange(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)


def _is_message(value: Any) -> bool:
    try:
        return bool(rows.message(value, "content"))
    except RowError:
        return False


def refuse_more(columns: Iterable[str], ratings: bool) -> None:
    """Refuse a row that would be read as less than it is: a column left over looks like a response or a judgment.

    Raises:
        RowError: there is such a column; ``ratings`` says whether a rating counts as one.
    """
    for column in columns:
        if JUDGED.fullmatch(column) or (ratings and RATED.fullmatch(column)):
            raise RowError(
                column,
                "looks like a response or a judgment, and no format reads it with the other columns: name the file's "
                "format with data.format or data.<kind>.format (standard leaves the column unread)",
            )
