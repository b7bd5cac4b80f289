"""Optional fields of a row: labels, numbers, instructions that a program checks, all columns as JSON."""

import json
from typing import Any

from rlhf.data import rows
from rlhf.data.rows import Row, RowError, has

LABELS = ("task", "source", "fact", "format", "held_out", "group", "language")  # text, kept if a row has them
NUMBERS = ("margin", "confidence", "weight", "label", "rating")  # of a pair or a single response, kept likewise
INSTRUCTIONS = ("instruction_id_list", "kwargs")  # of a prompt, kept likewise
COLUMNS = "columns"  # all columns of a prompt's row as JSON text, kept if a reward reads them
SCORES = tuple(
    pair.split()
    for pair in (
        "score_chosen score_rejected",
        "chosen_score rejected_score",
        "chosen_rating rejected_rating",
        "chosen-rating rejected-rating",
    )
)


def as_json(row: Row) -> str:
    """Return all columns of a row as JSON text; dates are written as in ISO 8601.

    Raises:
        RowError: a value cannot be written as JSON, such as an image.
    """
    found = {}
    for name, value in row.items():
        try:
            found[name] = json.dumps(value, default=lambda one: one.isoformat())
        except (AttributeError, TypeError, ValueError, RecursionError):
            raise RowError(name, f"is of type {type(value).__name__}, which a reward cannot read: remove it") from None
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in found.items()) + "}"


def has_instructions(row: Row) -> bool:
    """Return whether a row has instructions that a program can check, as IFEval's prompts have."""
    kinds, arguments = (row.get(field) for field in INSTRUCTIONS)
    lists = isinstance(kinds, list) and isinstance(arguments, list) and len(kinds) == len(arguments)
    return lists and all(isinstance(kind, str) for kind in kinds)


def margin(row: Row) -> float | None:
    """Return how much better the chosen completion is, in the units of the data set; None if they are unknown.

    It is the margin in the row, else the difference of two scores, else the strength of the preference.

    Raises:
        RowError: margin or a score is not a number.
    """
    if has(row, "margin"):
        return rows.number(row, "margin")
    for chosen, rejected in SCORES:
        if has(row, chosen, rejected):
            return rows.needed_number(row, chosen) - rows.needed_number(row, rejected)
    return number_or_none(row, "strength")


def number_or_none(row: Row, field: str) -> float | None:
    """Return the number under a name that some data sets use for other things."""
    try:
        return rows.number(row, field)
    except RowError:
        return None


def label(value: Any) -> str | None:
    """Return an optional field as text if it is a plain name, flag or number; some data sets use its name otherwise."""
    if isinstance(value, str):
        return value if value.isprintable() else None  # half a surrogate pair is not printable
    return str(value) if isinstance(value, bool | int) and abs(value) < 2**63 else None
