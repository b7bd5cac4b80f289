"""The cells of a row: conversations that are stored as text, and columns that no reader has read."""

import ast
import json
import re
from collections.abc import Iterable
from typing import Any

from rlhf.data import rows
from rlhf.data.rows import Row, RowError

# Columns that hold lists or objects in every layout; text in them is JSON or a Python literal.
NESTED = {"messages", "conversations", "conversation", "conversation_a", "conversation_b", "trajectory", "tools"}
NESTED |= {"responses", "scores", "answers", "completions", "generations", "ratings", "rating", "summaries", "info"}
NESTED |= {"instruction_id_list", "kwargs"}
OPENING = re.compile(r"\s*(?:array\()?\s*[\[{]")
TURN = re.compile(r"""["'](?:role|from)["']\s*:\s*["'](?:system|user|assistant|human|gpt)["']""")
TALK = re.compile(r"""\s*(?:array\()?\s*\[?\s*\{\s*["'](?:role|from|content|value|messages)["']""")
REQUEST = {"messages", "tools", "parallel_tool_calls"}  # keys of an input in OpenAI's fine-tuning

RESPONSES = r"(?:response|answer|completion|output|generation|reply|candidate|summary)(?:s|[ _-]?(?:\d|[abjk]|one|two))"
SIDES = r"(?:chosen|rejected|(?:dis|non[ _-])?preferred|better|worse|winning|losing)(?:[ _-].*)?"
VOTES = r"(?:winner|vote|verdict|preference|rank|ranking)s?(?:[ _-].*)?|(?:parent|message)_id"
RATINGS = r"(?:rating|score|reward|helpfulness|feedback|(?:up|down)vote)s?|quality"
FLAGS = r"(?:is[ _-]?)?(?:correct|right|wrong|accepted|approved|rejected|liked|(?:up|down)voted)"
JUDGED = re.compile(f"(?:{RESPONSES}|{SIDES}|{VOTES})", re.IGNORECASE)
RATED = re.compile(f"(?:{RATINGS}|{FLAGS})", re.IGNORECASE)


class Cells(dict[str, Any]):
    """A row that records which of its columns were read."""

    def __init__(self, row: Row):
        super().__init__(row)
        self._asked: set[str] = set()

    def __getitem__(self, column: str) -> Any:
        self._asked.add(column)
        return super().__getitem__(column)

    def get(self, column: Any, default: Any = None, /) -> Any:
        """Return the value of a column, and record that it was read."""
        self._asked.add(column)
        return super().get(column, default)

    def unread(self) -> list[str]:
        """Return the columns that have a value and were not read."""
        return [column for column, value in self.items() if value is not None and column not in self._asked]


def unfolded(row: Row) -> Row:
    """Return ``row`` with its conversations and lists parsed if CSV or a text column stores them as text.

    Text stays text unless it is a whole conversation, or is in a column that never holds text.

    Raises:
        RowError: a cell looks like a conversation and cannot be parsed.
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
    """Return whether a value is a message, a list of messages or [question, answer] pairs, or a request."""
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
    """Refuse a row if one of its unread ``columns`` looks like a response or a judgment, or with ``ratings`` a rating.

    Raises:
        RowError: there is such a column.
    """
    for column in columns:
        if JUDGED.fullmatch(column) or (ratings and RATED.fullmatch(column)):
            raise RowError(
                column,
                "looks like a response or a judgment, and no format reads it with the other columns: name the file's "
                "format with data.format or data.<kind>.format (standard leaves the column unread)",
            )
