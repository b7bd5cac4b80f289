"""Faults of well-formed data sets: leaks between splits, repeated rows, contradicting pairs."""

import hashlib
import itertools
import logging
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from rlhf.console import plural
from rlhf.data.cache import key_of, value
from rlhf.data.fingerprint import rows_of
from rlhf.data.render import Prompt, whole
from rlhf.data.rows import Row, is_blank, prompt_key
from rlhf.errors import DataError

log = logging.getLogger(__name__)

COMPLETIONS = ("completion", "chosen", "rejected", "text")


class Leaks(NamedTuple):
    """Held-out rows whose prompt is also in the training split."""

    count: int
    share: float  # of the held-out rows
    example: str | None


def leaks(train: Iterable[Row], held_out: Iterable[Row]) -> Leaks:
    """Count the rows of ``held_out`` whose prompt, or text without a prompt, is also in ``train``."""
    # The held-out side is small; the other may be larger than memory.
    counts = Counter(map(prompt_key, prompts_of(held_out)))
    seen = {key for key in map(prompt_key, prompts_of(train)) if key in counts}
    found = [key for key in counts if key in seen]
    count = sum(counts[key] for key in found)
    return Leaks(count, count / max(counts.total(), 1), found[0] if found else None)


def prompts_of(rows: Any) -> Iterable[Row]:
    """Return the rows of a table with only the prompt or the text; other columns are slow to read."""
    names = getattr(rows, "column_names", None)
    return rows if names is None else rows_of(rows.select_columns(["prompt" if "prompt" in names else "text"]))


def refuse_leaks(found: Leaks, train: str, held_out: str, allow: bool) -> None:
    """Refuse to evaluate on prompts that are trained on; with ``allow`` only warn.

    Raises:
        DataError: there is a leak and ``allow`` is False.
    """
    if found.count:
        message = (
            f"{plural(found.count, 'row')} of {held_out} ({found.share:.1%}) with a prompt that is also in {train}, "
            f"such as {found.example!r:.120}"
        )
        if not allow:
            raise DataError(f"{message}: remove them, or accept them with data.allow_leaks=true")
        log.warning("%s (data.allow_leaks=true)", message)


def oddities(row: Row) -> list[str]:
    """Return the properties of a row that are valid but unusual; the released HH has all of them."""
    found = []
    for name in COMPLETIONS:
        if name in row and is_blank(row[name]):
            found.append(f"empty {name}")
    for name in ("chosen", "rejected", "completion"):
        if isinstance(row.get(name), list):
            turns = [*row["prompt"], *row[name]]
            if any(a["role"] == b["role"] for a, b in itertools.pairwise(turns)):
                found.append("two turns of one role in a row")
                break
    if any(isinstance(row.get(name), list) and len(row[name]) > 1 for name in ("chosen", "rejected")):
        found.append("completions that differ before the last turn")
    if row.get("margin", 0) < 0:
        found.append("a margin below zero")
    return found


@dataclass
class Survey:
    """Counts of one pass over the rows, numbers of rows unless noted. A field is a column of text."""

    rows: int = 0
    prompts: int = 0  # distinct ones
    sources: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0  # repeat prompt and completions of an earlier row
    identical: int = 0  # pairs whose completions are the same
    contradicting: int = 0  # pairs that another pair reverses
    empty: dict[str, int] = field(default_factory=dict)  # field -> blank values
    truncated: dict[str, int] = field(default_factory=dict)  # field -> values that end within a sentence
    longer: float | None = None  # share of pairs whose chosen completion has more characters, ties half

    def problems(self) -> list[str]:
        """Return one clause for each problem that a training stage warns of."""
        named = {
            "repeat an earlier row": self.duplicates,
            "have chosen and rejected the same": self.identical,
            "are contradicted by another pair (chosen and rejected swapped)": self.contradicting,
            **{f"have an empty {name}": count for name, count in self.empty.items()},
        }
        return [
            f"{count} of {self.rows} rows ({count / self.rows:.1%}) {what}" for what, count in named.items() if count
        ]


def survey(rows: Iterable[Row]) -> Survey:
    """Count the properties of rows in one pass; at most 24 bytes of digests per row stay in memory."""
    found = Survey()
    keys = {name: array("Q") for name in ("row", "prompt", "turned")}
    sources: Counter[str] = Counter()
    empty: Counter[str] = Counter()
    truncated: Counter[str] = Counter()
    longer = pairs = 0.0
    for row in rows_of(rows):
        found.rows += 1
        sources[row.get("source") or "(none)"] += 1
        prompt = prompt_key(row)
        texts = {name: text_of(row[name]) for name in COMPLETIONS if name in row}
        keys["prompt"].append(digest(prompt))
        keys["row"].append(digest("\0".join([prompt, *texts.values()])))
        for name, text in texts.items():
            empty[name] += not text.strip()
            truncated[name] += ends_early(text)
        if "chosen" in row:
            chosen, rejected = texts["chosen"], texts["rejected"]
            found.identical += chosen == rejected
            pairs, longer = pairs + 1, longer + (len(chosen) > len(rejected)) + 0.5 * (len(chosen) == len(rejected))
            keys["turned"].append(digest("\0".join([prompt, rejected, chosen])) if chosen != rejected else 0)
    if found.rows:
        found.prompts = distinct(keys["prompt"])
        found.duplicates = found.rows - distinct(keys["row"])
    if pairs:
        found.contradicting = found_in(keys["turned"], keys["row"])
        found.longer = longer / pairs
    found.sources = dict(sources.most_common()) if set(sources) != {"(none)"} else {}
    found.empty, found.truncated = ({k: n for k, n in counts.items() if n} for counts in (empty, truncated))
    return found


def distinct(values: array) -> int:
    """Sort ``values`` in place, so that no copy of them is needed, and return the number of different ones."""
    import numpy

    ordered = numpy.frombuffer(values, numpy.uint64)
    ordered.sort()
    return 1 + int((ordered[1:] != ordered[:-1]).sum())


def found_in(values: array, ordered: array, part: int = 1 << 20) -> int:
    """Return how many of ``values`` are in ``ordered``, which is sorted; a part of them at a time."""
    import numpy

    wanted, known = (numpy.frombuffer(one, numpy.uint64) for one in (values, ordered))
    count = 0
    for start in range(0, len(wanted), part):
        some = wanted[start : start + part]
        count += int((known[numpy.searchsorted(known, some).clip(max=len(known) - 1)] == some).sum())
    return count


def digest(text: str) -> int:
    """Return a number in [1, 2**64) for a text; ten million texts collide with a probability of 3e-6."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") or 1


def text_of(completion: Prompt) -> str:
    """Return a completion as one text, with one line per message of a conversation."""
    return completion if isinstance(completion, str) else "\n".join(map(whole, completion))


def ends_early(text: str, words: int = 20) -> bool:
    """Return whether a text of at least ``words`` words ends with a letter, digit or comma: it is probably cut off."""
    last = text.rstrip()[-1:]
    return (last.isalnum() or last == ",") and len(text.split(maxsplit=words)) >= words


def surveyed(rows: Any, folder: str) -> Survey:
    """Return the `survey` of a table, from the cache if it was made before."""
    return Survey(**value(folder, key_of("survey", rows._fingerprint), lambda: asdict(survey(rows))))
