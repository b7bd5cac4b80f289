"""Rows of the benchmarks as released, read into one layout: a prompt, its right responses, then its wrong ones.

A reader gets a row and the place of its file, such as ``Adversarial/Manual/dataset.json``, or the name of its split.
"""

from pathlib import PurePath
from typing import NamedTuple

from rlhf.data import rows
from rlhf.data.render import Prompt
from rlhf.data.rows import Row, RowError


class Item(NamedTuple):
    """A prompt with its responses: the first ``right`` ones are right. ``subset`` is the benchmark's own name.

    ``tie`` counts a pair whose scores are equal, and ``language`` and ``turns`` are None if the row does not have them.
    """

    id: str
    subset: str
    prompt: Prompt
    responses: list[str]
    right: int = 1
    tie: float = 0.0
    language: str | None = None
    turns: int | None = None


def asked(row: Row, field: str) -> Prompt:
    """Return a text or a conversation; a single message of the user is a text."""
    if isinstance(row.get(field), str):
        return rows.text(row, field)
    messages = rows.conversation(row, field)
    return messages[0]["content"] if [turn["role"] for turn in messages] == ["user"] else messages


def texts(row: Row, field: str) -> list[str]:
    """Return the texts in a list, at least one.

    Raises:
        RowError: the field is missing, empty or not a list of texts.
    """
    value = row.get(field)
    if not isinstance(value, list) or not value:
        raise RowError(field, "must be a list of responses")
    return [rows.checked_text(text, field) for text in value]


def named(row: Row, *fields: str) -> str:
    """Return the first of the fields that the row has, as text; empty without one."""
    return next((str(row[field]) for field in fields if rows.has(row, field)), "")


def rewardbench(row: Row, place: str) -> Item:
    """Read RewardBench: prompt, chosen, rejected, subset; a row of the prior sets has a conversation as its prompt."""
    pair = [rows.text(row, field) for field in ("chosen", "rejected")]
    return Item(named(row, "id"), rows.text(row, "subset"), asked(row, "prompt"), pair)


def prior(row: Row, place: str) -> Item:
    """Read a row of RewardBench's prior sets, whose subset is its split; its own column is a part of it."""
    return rewardbench(row | {"subset": split_of(place)}, place)


def rewardbench2(row: Row, place: str) -> Item:
    """Read RewardBench 2: lists of chosen and rejected responses; ``num_correct`` of them are right."""
    chosen, rejected = texts(row, "chosen"), texts(row, "rejected")
    subset = rows.text(row, "subset")
    return Item(named(row, "id"), subset, asked(row, "prompt"), chosen + rejected, len(chosen))


STYLES = 3  # of RM-Bench: concise, detailed, detailed with Markdown


def rm_bench(row: Row, place: str) -> Item:
    """Read RM-Bench: three chosen and three rejected responses; a file of one domain has its name."""
    sides = [texts(row, field) for field in ("chosen", "rejected")]
    for field, side in zip(("chosen", "rejected"), sides, strict=True):
        if len(side) != STYLES:
            raise RowError(field, f"must have {STYLES} responses, got {len(side)}")
    domain = named(row, "domain") or split_of(place).split("_")[0]
    return Item(named(row, "id"), domain.split("-")[0], asked(row, "prompt"), [*sides[0], *sides[1]], STYLES)


def split_of(place: str) -> str:
    """Return the name of a file without its suffixes and the number of its shard: ``a/shp-00000-of-00001.parquet``."""
    return PurePath(place).name.split(".")[0].split("-0")[0]
