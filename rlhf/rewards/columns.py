"""The other columns of a prompt's row, for the rewards that name them.

As in TRL, a reward function may take more than prompts and completions: a further parameter is a column of the data,
passed as a list aligned with the completions, and ``**columns`` takes all of them. The row is found by its prompt.
Therefore every caller passes only prompts and completions, whether it samples one or several responses per prompt.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf.data.render import Prompt, question
from rlhf.data.rows import prompt_key
from rlhf.errors import DataError, TrainingError, printable

if TYPE_CHECKING:
    from datasets import Dataset

    from rlhf.rewards.protocol import RewardFunction

TEXTS = ("prompts", "completions")
KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Takes(NamedTuple):
    """Arguments of a reward: columns, True if required; all columns; the texts taken by name, None by position."""

    columns: Mapping[str, bool]
    all: bool = False
    by_name: tuple[str, ...] | None = None


def takes(reward: Callable) -> Takes:
    """Return what ``reward`` takes, by its attribute ``reads`` or else by its signature.

    The texts are the first two arguments, or the parameters ``prompts`` and ``completions``, as in TRL, if there are
    both or if ``completions`` is the first.
    """
    if (reads := getattr(reward, "reads", None)) is not None:
        return Takes(dict.fromkeys(reads, True))
    try:
        parameters = inspect.signature(reward).parameters.values()
    except (TypeError, ValueError):  # of a function in C
        return Takes({})
    everything = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
    keyword = {one.name: one.default is inspect.Parameter.empty for one in parameters if one.kind in KEYWORD}
    positional = [one.name for one in parameters if one.kind in POSITIONAL]
    by_name = None
    named = keyword.keys() >= set(TEXTS) or (positional[:1] == ["completions"] and "completions" in keyword)
    if named and positional[:2] != list(TEXTS):
        by_name = tuple(name for name in TEXTS if name in keyword or everything)
    texts = by_name or positional[:2]
    return Takes({name: needed for name, needed in keyword.items() if name not in texts}, everything, by_name)


def reads_columns(reward: Callable) -> bool:
    """Return whether ``reward`` takes any column."""
    found = takes(reward)
    return found.all or bool(found.columns)


class Rows:
    """The columns of rows by prompt; ``splits`` are sets of rows that were loaded with ``columns=True``, by name.

    If a prompt occurs several times, the first row counts; `check` refuses rows that contradict each other.
    """

    def __init__(self, splits: Mapping[str, "Dataset"]):
        self.splits = dict(splits)
        self.names: dict[str, None] = {}
        self._places: dict[bytes, tuple[str, int]] = {}
        self._repeated: list[tuple[tuple[str, int], tuple[str, int]]] = []
        for split, rows in self.splits.items():
            for index, row in enumerate(rows.select_columns(["prompt", "columns"])):
                self.names.update(dict.fromkeys(json.loads(row["columns"])))
                first = self._places.setdefault(_key(row["prompt"]), (split, index))
                if first != (split, index):
                    self._repeated.append((first, (split, index)))

    def __call__(self, prompts: Sequence[Prompt], names: Sequence[str]) -> dict[str, list]:
        """Return the columns ``names`` aligned with ``prompts``; None for a row without a value.

        Raises:
            TrainingError: a prompt is not in the rows.
        """
        known: dict[bytes, dict[str, Any]] = {}
        keys = [_key(prompt) for prompt in prompts]
        for key, prompt in zip(keys, prompts, strict=True):
            if key not in self._places:
                raise TrainingError(f"the prompt {shown(prompt)} has no row with the columns {', '.join(names)}")
            if key not in known:
                known[key] = self._columns(*self._places[key])
        return {name: [known[key].get(name) for key in keys] for name in names}

    def values(self, names: Sequence[str]) -> Iterator[tuple[str, list]]:
        """Yield the place of each row and its values of ``names``."""
        for split, rows in self.splits.items():
            for index, text in enumerate(rows["columns"]):
                columns = json.loads(text)
                yield place(split, index), [columns.get(name) for name in names]

    def check(self, names: Sequence[str], key: str) -> None:
        """Check that the columns ``names``, which the reward of the setting ``key`` requires, exist and are consistent.

        Raises:
            DataError: a column does not exist, or a prompt occurs twice with different values.
        """
        missing = [name for name in names if name not in self.names]
        if missing:
            raise DataError(
                f"{key} reads the column {missing[0]!r}, which {', '.join(self.splits)} does not have: its columns are "
                f"{', '.join(map(printable, self.names))}"
            )
        for first, second in self._repeated:
            one, other = (self._columns(*found) for found in (first, second))
            differs = [name for name in names if one.get(name) != other.get(name)]
            if differs:
                raise DataError(
                    f"{place(*second)} has the prompt of {place(*first)} and another value in {differs[0]!r}, which "
                    f"{key} reads: remove one of the two rows"
                )

    def _columns(self, split: str, index: int) -> dict[str, Any]:
        return json.loads(self.splits[split][index]["columns"])


def bound(reward: Callable, key: str, rows: Rows | None) -> "RewardFunction":
    """Return ``reward`` as a function of prompts and completions that looks up its columns in ``rows``.

    A column that does not exist is left out if the parameter has a default. ``key`` is the setting of the reward.

    Raises:
        DataError: a required column does not exist, or a value cannot be used by a built-in reward.
    """
    found = takes(reward)
    needed = [name for name, required in found.columns.items() if required]
    if rows is None and needed:
        raise DataError(f"{key} reads the column {needed[0]!r}, and no rows were loaded with it: set another reward")
    if rows is not None:
        rows.check(needed, key)
        _check_values(reward, needed, key, rows)
    existing = {} if rows is None else rows.names
    names = [name for name in found.columns if name in existing]
    if found.all:
        names += [name for name in existing if name not in names and name not in TEXTS]
    if not names and found.by_name is None:
        return reward

    def call(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        columns = {} if rows is None or not names else rows(prompts, names)
        if found.by_name is None:
            return reward(prompts, completions, **columns)
        texts = dict(zip(TEXTS, (prompts, completions), strict=True))
        return reward(**{name: texts[name] for name in found.by_name}, **columns)

    call.__wrapped__ = reward  # ty: ignore[missing-attribute]
    return call


def _check_values(reward: Any, names: Sequence[str], key: str, rows: Rows) -> None:
    """Check the values of each row by the method ``check`` of a built-in reward."""
    if (check := getattr(reward, "check", None)) is None or not names:
        return
    for where, values in rows.values(names):
        try:
            if None not in values:
                check(*values)
        except ValueError as error:
            raise DataError(f"{where} cannot be scored by {key}: {error}") from None


def place(split: str, index: int) -> str:
    """Return the name of a row in messages; rows count from 1."""
    return f"{split} row {index + 1}"


def shown(text: Prompt, most: int = 60) -> str:
    """Return the beginning of a text, or of the last message of a conversation, for a message on one line."""
    return repr(printable((text if isinstance(text, str) else question(text))[:most]))


def _key(prompt: Prompt) -> bytes:
    return hashlib.sha256(prompt_key({"prompt": prompt}).encode()).digest()[:16]
