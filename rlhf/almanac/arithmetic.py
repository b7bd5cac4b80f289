"""Sums of numbers below 100, a task with a verifiable answer: the files under preference_data/arithmetic.

The text for the base model has right sums. Demonstrators forget the carry in some, so that a model trained on them does
too, although it knows better: a reward that reads the column ``answer`` can correct it. A tenth of the sums, in either
order of the two numbers, is only in the validation and test splits.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from rlhf.storage.paths import bundled

SEED = 1202
BELOW = 100
HELD_OUT_SHARE = 0.1
SLIP_SHARE = 0.5
"""Share of the demonstrations with a carry in which it is forgotten."""
SUMS_PER_TEXT = 8
ROWS = {
    "text": {"train": 1200, "validation": 40},
    "demonstrations": {"train": 3000, "validation": 200},
    "prompts": {"train": 1500, "validation": 200, "test": 300},
}

Sum = tuple[int, int]


def sums() -> dict[str, list[Sum]]:
    """Return the sums of each split, shuffled; a + b and b + a are in the same one."""
    random = Random(SEED)
    pairs = [(a, b) for a in range(BELOW) for b in range(a, BELOW)]
    random.shuffle(pairs)
    count = int(len(pairs) * HELD_OUT_SHARE)
    parts = {"validation": pairs[: count // 2], "test": pairs[count // 2 : count], "train": pairs[count:]}
    found = {split: [*part, *((b, a) for a, b in part if a != b)] for split, part in parts.items()}
    for part in found.values():
        random.shuffle(part)
    return found


def carries(a: int, b: int) -> bool:
    """Return whether the ones of ``a`` and ``b`` have a carry."""
    return a % 10 + b % 10 > 9


def slipped(a: int, b: int) -> int:
    """Return the sum without the carry of the ones."""
    return a + b - 10 * carries(a, b)


def rows(kind: str, split: str) -> Iterator[dict[str, str]]:
    """Yield the rows of one file."""
    random, count = Random(f"{SEED} {kind} {split}"), ROWS[kind][split]
    known = sums()[split]
    if kind == "text":
        for _ in range(count):
            yield {
                "text": "\n".join(
                    f"What is {a} + {b}? {a} + {b} = {a + b}" for a, b in random.sample(known, SUMS_PER_TEXT)
                )
            }
        return
    for a, b in random.sample(known, count):
        row = {"prompt": f"What is {a} + {b}?", "answer": str(a + b)}
        if kind == "demonstrations":
            said = slipped(a, b) if random.random() < SLIP_SHARE else a + b
            row = {"prompt": row["prompt"], "completion": f"{a} + {b} = {said}"}
        yield row


def write(directory: Path | None = None) -> list[Path]:
    """Write every file below a directory (preference_data/arithmetic by default) and return their paths."""
    directory = directory or bundled("preference_data") / "arithmetic"
    written = []
    for kind, splits in ROWS.items():
        for split in splits:
            path = directory / kind / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(row) + "\n" for row in rows(kind, split))
            path.write_text(text, encoding="utf-8", newline="\n")
            written.append(path)
    return written
