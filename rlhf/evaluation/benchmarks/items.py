"""Rows of the benchmarks as released, read into one layout: a prompt, its right responses, then its wrong ones.

A reader gets a row and the place of its file, such as ``Adversarial/Manual/dataset.json``, or the name of its split.
"""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from rlhf.data import rows
from rlhf.data.render import Prompt
from rlhf.data.rows import Row, RowError
from rlhf.evaluation.reward_card.pairs import turns


class Item(NamedTuple):
    """A prompt with its responses: the first ``right`` ones are right. ``subset`` is the benchmark's own name.

    ``tie`` counts a pair whose scores are equal. ``compared`` are the pairs (right, wrong) of the benchmark; None: all.
    """

    id: str
    subset: str
    prompt: Prompt
    responses: list[str]
    right: int = 1
    tie: float = 0.0
    language: str | None = None
    compared: tuple[tuple[int, int], ...] | None = None

    @property
    def turns(self) -> int:
        """Turns of the user in the prompt."""
        return turns(self.prompt)

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of the right and of the wrong response of each pair, both (m,)."""
        wrong = range(self.right, len(self.responses))
        every = [(i, j) for i in range(self.right) for j in wrong] if self.compared is None else self.compared
        first, second = np.array(every).T
        return first, second


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


HUMAN = "human preference"  # of PPE
STYLES = 3  # of RM-Bench: concise, detailed, detailed with Markdown


def rm_bench(row: Row, place: str) -> Item:
    """Read RM-Bench: three chosen and three rejected responses; a file of one domain has its name."""
    sides = [texts(row, field) for field in ("chosen", "rejected")]
    for field, side in zip(("chosen", "rejected"), sides, strict=True):
        if len(side) != STYLES:
            raise RowError(field, f"must have {STYLES} responses, got {len(side)}")
    domain = named(row, "domain") or split_of(place).split("_")[0]
    return Item(named(row, "id"), domain.split("-")[0], asked(row, "prompt"), [*sides[0], *sides[1]], STYLES)


def labeled(row: Row, field: str, names: Sequence[str], labels: Sequence[str]) -> tuple[list[str], bool]:
    """Return two responses, the one that the label names first, and whether that is the first of the row.

    Raises:
        RowError: the label is another one.
    """
    label = str(row.get(field))
    if label not in labels:
        raise RowError(field, f"must be {' or '.join(labels)}, got {rows.shown(label)}")
    pair = [rows.text(row, name) for name in names]
    return (pair, True) if label == labels[0] else (pair[::-1], False)


def judgebench(row: Row, place: str) -> Item:
    """Read JudgeBench; of equal scores, the second response is the verdict. Sources of MMLU-Pro are one subset."""
    pair, first = labeled(row, "label", ("response_A", "response_B"), ("A>B", "B>A"))
    source = rows.text(row, "source")
    subset = "mmlu-pro" if source.startswith("mmlu-pro") else source
    return Item(named(row, "pair_id"), subset, asked(row, "question"), pair, tie=float(not first))


def llmbar(row: Row, place: str) -> Item:
    """Read LLMBar, whose subset is the folder of its file; a tie is right in one of two orders."""
    pair, _ = labeled(row, "label", ("output_1", "output_2"), ("1", "2"))
    return Item("", PurePath(place).parent.name or split_of(place), asked(row, "input"), pair, tie=0.5)


def _answer(response: Any, field: str) -> str:
    if not isinstance(response, dict):
        raise RowError(field, "must hold the answer of a model")
    return rows.checked_text(response.get("answer"), f"{field}.answer")


def rmb(row: Row, place: str) -> Item:
    """Read RMB: a chosen response and a rejected one, or the best of several; the subset is its path to a category."""
    field, others = ("chosen", [row.get("reject")]) if rows.has(row, "chosen") else ("bon_best", row.get("loser_list"))
    if not isinstance(others, list) or not others:
        raise RowError("loser_list", "must be a list of responses")
    responses = [_answer(row.get(field), field), *(_answer(one, "reject or loser_list") for one in others)]
    subset = "/".join(rows.text(row, "category_path").split("/")[:3])
    turn = row["conversation_input"][-1] if row.get("conversation_input") else {}
    prompt = asked(row, "conversation_input")
    return Item(named(row, "pair_uid", "bon_uid"), subset, prompt, responses, language=turn.get("language"))


WINNERS = ("model_a", "model_b")
CORRECTNESS = re.compile(r"PPE-(.+)-Best-of-K")


def ppe(row: Row, place: str) -> Item | None:
    """Read PPE: a human preference, None for a tie, or up to 32 responses of which some are correct.

    The pairs of the second are those of the release.
    """
    key = named(row, "question_id")
    if rows.has(row, "winner"):
        if row["winner"] not in WINNERS:
            return None
        pair, _ = labeled(row, "winner", ("response_1", "response_2"), WINNERS)
        return Item(key, HUMAN, asked(row, "prompt"), pair, language=named(row, "language") or None)
    scores, pairs = (row.get(field) for field in ("scores", "sampled_conflict_pairs"))
    if not isinstance(scores, list) or not isinstance(pairs, list):
        raise RowError("scores", "and sampled_conflict_pairs must be lists, or there must be a winner")
    responses = [rows.text(row, f"response_{number + 1}") for number in range(len(scores))]
    order = sorted(range(len(scores)), key=lambda number: not scores[number])
    at = {number: position for position, number in enumerate(order)}
    compared = tuple((at[i], at[j]) if scores[i] else (at[j], at[i]) for i, j in pairs if scores[i] != scores[j])
    right = sum(map(bool, scores))
    if not compared:
        return None
    found = CORRECTNESS.search(place)
    subset = found[1] if found else PurePath(place).parent.name or split_of(place)
    return Item(key, subset, asked(row, "prompt"), [responses[i] for i in order], right, compared=compared)


def split_of(place: str) -> str:
    """Return the name of a file without its suffixes and the number of its shard: ``a/shp-00000-of-00001.parquet``."""
    return PurePath(place).name.split(".")[0].split("-0")[0]
