"""The data sheet: the numbers to know about a data set before spending GPU hours on it."""

import random
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rlhf.config import InspectStage
from rlhf.data import cache
from rlhf.data.checks import COMPLETIONS, surveyed, text_of
from rlhf.data.reading import Table
from rlhf.data.render import Prompt, encode, holds, question, shared, special_pattern, text_ids
from rlhf.data.rows import Row
from rlhf.data.tokens import identity
from rlhf.errors import ModelError

if TYPE_CHECKING:
    from datasets import Dataset

WORDS_OF_A_SHINGLE = 3  # near duplicates share sequences of three words, Broder 1997, "On the resemblance ..."
PERMUTATIONS = 128
CHARACTERS = 1000  # of a text, from which its language is detected
COUNTED = ("read", "rows", "layouts", "left_out", "problem", "oddities", "unread", "singles")  # while rows are read
INSTALL = "not looked for: pip install 'rlhf[inspect]'"


def sheet(table: Table, stage: InspectStage, tokenizer: Any | None, folder: str, seed: int) -> dict[str, Any]:
    """Return the data sheet of one split. Lengths are in tokens of ``tokenizer``, or in words without one.

    Near duplicates and languages are those of at most ``stage.near_duplicates`` and ``stage.languages`` rows, drawn
    with ``seed``; null without rows, and a message if the package that finds them is not installed.
    """
    rows = table.rows
    counted_by = [] if tokenizer is None else [stage.max_length, *identity(tokenizer)]
    key = cache.key_of("measured", rows._fingerprint, counted_by)
    return {
        **{name: table.told[name] for name in COUNTED},
        **asdict(surveyed(rows, folder)),
        "unit": "words" if tokenizer is None else "tokens",
        "counted_by": None if tokenizer is None else stage.tokenizer,
        **cache.value(folder, key, lambda: measured(rows, stage.max_length, tokenizer)),
        "near_duplicates": near_duplicates(drawn(rows, stage.near_duplicates, seed), stage.similarity),
        "languages": languages(drawn(rows, stage.languages, seed)),
    }


def drawn(rows: "Dataset", count: int, seed: int) -> "Dataset":
    """Return ``count`` rows drawn with ``seed``, in their order."""
    return rows if count >= len(rows) else rows.select(sorted(random.Random(seed).sample(range(len(rows)), count)))


def measured(rows: "Dataset", longest: int, tokenizer: Any | None) -> dict[str, Any]:
    """Return lengths of prompts and completions, and counts of rows that exceed ``longest`` tokens."""
    lengths: dict[str, array] = {}
    found: Counter[str] = Counter()
    fields = [name for name in COMPLETIONS if name in rows.column_names]
    for batch in rows.iter(cache.BATCH):
        if tokenizer is None:
            for name in (*fields, *(["prompt"] if "prompt" in batch else [])):
                lengths.setdefault(name, array("L")).extend(len(text_of(text).split()) for text in batch[name])
        else:
            _measure(batch, fields, tokenizer, longest, lengths, found)
    order = [name for name in ("prompt", *fields) if name in lengths]
    return {"lengths": {name: _summary(lengths[name]) for name in order}} | (
        {} if tokenizer is None else {"max_length": longest, **{key: found[key] for key in COUNTS}}
    )


COUNTS = ("longer_rows", "filled", "special", "broken")


def _measure(
    batch: dict[str, list],
    fields: Sequence[str],
    tokenizer: Any,
    longest: int,
    lengths: dict[str, array],
    found: Counter,
) -> None:
    pattern = special_pattern(tokenizer)
    if fields == ["text"]:
        lengths.setdefault("text", array("L")).extend(map(len, text_ids(tokenizer, batch["text"])))
        found["special"] += sum(holds(pattern, text) for text in batch["text"])
        return
    prompts = encode(tokenizer, batch["prompt"])
    wholes = [encode(tokenizer, batch["prompt"], batch[name]) for name in fields]
    for i, (prompt, *whole) in enumerate(zip(prompts, *wholes, strict=True)):
        start = shared(prompt, *whole) if whole else len(prompt)
        lengths.setdefault("prompt", array("L")).append(len(prompt))
        for name, ids in zip(fields, whole, strict=True):
            lengths.setdefault(name, array("L")).append(len(ids) - start)
        found["broken"] += start < len(prompt)
        found["longer_rows"] += max(map(len, (prompt, *whole))) > longest
        found["filled"] += len(prompt) >= longest
        found["special"] += any(holds(pattern, batch[name][i]) for name in ("prompt", *fields))


def _summary(lengths: array) -> dict[str, Any]:
    """Return quantiles, the mean and a histogram, upper bound -> number, of [0, 1), [1, 2), [2, 4), [4, 8) ..."""
    import numpy

    values = numpy.frombuffer(lengths, dtype=f"u{lengths.itemsize}")
    bins = numpy.bincount([int(value).bit_length() for value in values.tolist()])
    quantiles = {name: int(numpy.quantile(values, q, method="lower")) for name, q in QUANTILES.items()}
    first = int(numpy.flatnonzero(bins)[0])
    histogram = {str(2**i): int(n) for i, n in enumerate(bins) if i >= first}
    return {**quantiles, "mean": float(values.mean()), "histogram": histogram}


QUANTILES = {"median": 0.5, "p95": 0.95, "max": 1.0}


def near_duplicates(rows: "Dataset", similarity: float) -> dict[str, Any] | str | None:
    """Count rows that nearly repeat an earlier one: the Jaccard index of their shingles is at least ``similarity``.

    Exact duplicates do not count. The index is an estimate by MinHash (Broder 1997), in rensa's implementation.
    """
    if not len(rows):
        return None
    try:
        from rensa import RMinHashDeduplicator  # ty: ignore[missing-module-member]  # compiled, without stubs
    except ImportError:
        return INSTALL
    found = RMinHashDeduplicator(threshold=similarity, num_perm=PERMUTATIONS, use_lsh=True)
    seen, near = set(), 0
    for row in rows:
        text = whole_text(row)
        if text not in seen:
            seen.add(text)
            near += not found.add_pairs([(str(len(seen)), shingles(text))])[0]
    return {"rows": len(rows), "count": near, "similarity": similarity}


def whole_text(row: Row) -> str:
    """Return prompt and completions of a row as one text."""
    return "\n".join(text_of(row[name]) for name in ("prompt", *COMPLETIONS) if name in row)


def shingles(text: str) -> list[str]:
    """Return all sequences of three words of a text; the whole text if it is shorter."""
    words = text.lower().split()
    return [" ".join(words[i : i + WORDS_OF_A_SHINGLE]) for i in range(max(len(words) - WORDS_OF_A_SHINGLE + 1, 1))]


def languages(rows: "Dataset") -> dict[str, Any] | str | None:
    """Count rows by language, detected by py3langid's model in the question or in the text."""
    if not len(rows):
        return None
    try:
        import py3langid
    except ImportError:
        return INSTALL
    name = "prompt" if "prompt" in rows.column_names else "text"
    found = Counter(py3langid.classify(question(text)[:CHARACTERS])[0] for text in rows[name])
    return {"rows": len(rows), "counts": dict(found.most_common())}


def examples(rows: "Dataset", tokenizer: Any | None, count: int, seed: int) -> list[dict[str, str]]:
    """Return ``count`` rows drawn with ``seed`` as the model sees them: prompt and completions with all markup."""
    return [_example(row, tokenizer) for row in drawn(rows, count, seed)]


def _example(row: Row, tokenizer: Any | None) -> dict[str, str]:
    fields = [name for name in COMPLETIONS if name in row]
    if tokenizer is None or fields == ["text"]:
        return {name: spoken(row[name]) for name in ("prompt", *fields) if name in row}
    [prompt] = encode(tokenizer, [row["prompt"]])
    wholes = {name: encode(tokenizer, [row["prompt"]], [row[name]])[0] for name in fields}
    start = shared(prompt, *wholes.values()) if wholes else len(prompt)
    parts = {"prompt": prompt[:start]} | {name: ids[start:] for name, ids in wholes.items()}
    return {name: tokenizer.decode(ids, skip_special_tokens=False) for name, ids in parts.items()}


def spoken(prompt: Prompt) -> str:
    """Return a prompt as readable text, for use without a chat template."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{turn['role']}: {text_of([turn])}" for turn in prompt)


def obstacle(tokenizer: Any, table: Table) -> str | None:
    """Return why these rows cannot be rendered, None if they can: the chat template is missing or refuses them."""
    try:
        for row in table.rows.select(range(min(100, len(table.rows)))):
            _example(row, tokenizer)
    except ModelError as error:
        return str(error)
    return None
