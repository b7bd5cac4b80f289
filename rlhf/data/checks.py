"""What can be wrong with data sets that are well-formed: leaks between splits, repetitions, lengths."""

import itertools
import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from rlhf.data.fingerprint import fingerprint
from rlhf.data.render import Prompt
from rlhf.data.rows import Row, is_blank, prompt_key
from rlhf.errors import DataError

log = logging.getLogger(__name__)

COMPLETIONS = ("completion", "chosen", "rejected", "text")


class Leaks(NamedTuple):
    """Held-out rows whose prompt the training split has too."""

    count: int
    share: float  # of the held-out rows
    example: str | None


def leaks(train: Iterable[Row], held_out: Iterable[Row]) -> Leaks:
    """Count the rows of ``held_out`` whose prompt (or text, where there is none) is a row's of ``train``."""
    # The held-out side is the small one: the other may be larger than memory.
    counts = Counter(map(prompt_key, prompts_of(held_out)))
    seen = {key for key in map(prompt_key, prompts_of(train)) if key in counts}
    found = [key for key in counts if key in seen]
    count = sum(counts[key] for key in found)
    return Leaks(count, count / max(counts.total(), 1), found[0] if found else None)


def prompts_of(rows: Iterable[Row]) -> Iterable[Row]:
    """The rows of a table without the columns that do not matter here, which are slow to read."""
    names = getattr(rows, "column_names", None)
    return rows if names is None else rows.select_columns(["prompt" if "prompt" in names else "text"])


def check_leaks(train: Iterable[Row], held_out: Iterable[Row], allow: bool) -> Leaks:
    """Refuse to measure on prompts that were trained on; with ``allow`` only warn.

    Raises:
        DataError: there is a leak and ``allow`` is False.
    """
    found = leaks(train, held_out)
    if found.count:
        sentence = (
            f"{found.count} held-out rows ({found.share:.1%}) have a prompt that the training split has too, "
            f"the first is {found.example!r:.120}"
        )
        if not allow:
            raise DataError(f"{sentence}; remove them, or accept it with data.allow_leaks=true")
        log.warning("%s (data.allow_leaks=true)", sentence)
    return found


def duplicates(dataset: Iterable[Row]) -> int:
    """Number of rows that repeat an earlier row in every field."""
    rows = list(dataset)
    return len(rows) - len({fingerprint([row]) for row in rows})


def length(completion: Prompt) -> int:
    """Characters, of a conversation those of all its messages."""
    return len(completion) if isinstance(completion, str) else sum(len(turn["content"]) for turn in completion)


def oddities(row: Row) -> list[str]:
    """What a row has that it may have, but that its reader should know about: the release of HH has all of them."""
    found = []
    for field in COMPLETIONS:
        if field in row and is_blank(row[field]):
            found.append(f"empty {field}")
    for field in ("chosen", "rejected", "completion"):
        if isinstance(row.get(field), list):
            turns = [*row["prompt"], *row[field]]
            if any(a["role"] == b["role"] for a, b in itertools.pairwise(turns)):
                found.append("two turns of one role in a row")
                break
    if any(isinstance(row.get(field), list) and len(row[field]) > 1 for field in ("chosen", "rejected")):
        found.append("completions that differ before the last turn")
    return found


def statistics(dataset: Iterable[Row]) -> dict[str, Any]:
    """Row count, exact duplicates, lengths in characters, and the share of pairs whose chosen completion is longer."""
    rows = list(dataset)
    result: dict[str, Any] = {"rows": len(rows), "duplicates": duplicates(rows)}
    for field in ("prompt", *COMPLETIONS):
        lengths = sorted(length(row[field]) for row in rows if field in row)
        if lengths:
            result[f"{field}_characters"] = {"median": lengths[len(lengths) // 2], "max": lengths[-1]}
    pairs = [(length(row["chosen"]), length(row["rejected"])) for row in rows if "chosen" in row]
    if pairs:
        result["longer_chosen"] = sum(chosen > rejected for chosen, rejected in pairs) / len(pairs)
    return result
