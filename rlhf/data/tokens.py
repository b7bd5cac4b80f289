"""Rows as the token ids that a trainer is given: rendered and tokenised once, on disk, and counted.

The response begins where the tokens of the prompt alone and those of the prompt with its response differ; a rendered
string is never cut at the prompt's length. A template that renders the prompt otherwise when a response follows is
told: the model would be asked another question than it was trained on.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from rlhf.data import cache
from rlhf.data.render import encode, holds, special_pattern
from rlhf.storage.digests import tokenizer_record

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

RESPONSES = {"demonstrations": ("completion",), "preferences": ("chosen", "rejected")}
CUT = "longer than max_length, cut"
FILLED = "prompt fills max_length, left out"
BROKEN = "token boundary differs between prompt alone and prompt + response"


class Form(Enum):
    """What a trainer takes."""

    completions = "completions"  # input_ids and labels: TRL's SFTTrainer; cut to max_length
    pairs = "pairs"  # prompt_ids, chosen_ids and rejected_ids: DPOTrainer, whose collator cuts
    sequences = "sequences"  # chosen_ids and rejected_ids, prompts included: RewardTrainer, which leaves long ones out


@dataclass
class Counts:
    """What was found while rows were tokenised, each a number of rows."""

    cut: int = 0
    filled: int = 0  # the prompt alone fills max_length: nothing of the response would remain
    broken: int = 0  # the tokens of the prompt are not the beginning of those with a response
    special: int = 0  # the text of a special token stands in it, and is encoded as text
    example: str | None = None  # the end of the first broken prompt, which the response replaces


def tokenised(
    rows: "Dataset",
    form: Form,
    tokenizer: Any,
    max_length: int | None,
    folder: str,
    extra: Sequence[str] = (),
    keep_end: bool = False,
) -> tuple["Dataset | None", Counts]:
    """``rows`` as ids in the form that a trainer takes, with the columns ``extra``; None where no row is left.

    Of a row that is longer than ``max_length`` tokens the end is cut. Where the prompt alone is as long, the row is
    left out, as TRL does it; with ``keep_end`` (TRL's truncation_mode) something of the response always remains.
    """
    kind = "demonstrations" if form is Form.completions else "preferences"
    key = cache.key_of(rows._fingerprint, form.value, max_length, list(extra), keep_end, *identity(tokenizer))

    def build(writer: cache.Writer) -> dict[str, Any]:
        counts = Counts()
        schema = _schema(form, rows, extra)
        for batch in rows.iter(cache.BATCH):
            made = _rows(batch, RESPONSES[kind], form, tokenizer, max_length, keep_end, counts)
            kept = [ids | {name: batch[name][i] for name in extra} for i, ids in made]
            if kept:
                writer.write(kept, schema)
        return vars(counts)

    found, told = cache.table(folder, key, "the tokenised rows", build)
    return found, Counts(**told)


def identity(tokenizer: Any) -> list[Any]:
    """What decides the ids that a tokenizer makes: its vocabulary and rules, chat template and special tokens."""
    rules = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else repr(tokenizer)
    return [tokenizer_record(tokenizer), hashlib.sha256(rules.encode()).hexdigest()]


def _rows(
    batch: dict[str, list],
    responses: Sequence[str],
    form: Form,
    tokenizer: Any,
    max_length: int | None,
    keep_end: bool,
    counts: Counts,
) -> Iterator[tuple[int, dict[str, list[int]]]]:
    prompts, pattern = batch["prompt"], special_pattern(tokenizer)
    counts.special += sum(
        any(holds(pattern, text) for text in (prompt, *texts))
        for prompt, *texts in zip(prompts, *(batch[name] for name in responses), strict=True)
    )
    wholes = [encode(tokenizer, prompts, batch[name]) for name in responses]
    if form is Form.sequences:
        for i, whole in enumerate(zip(*wholes, strict=True)):
            yield i, {f"{name}_ids": ids for name, ids in zip(responses, whole, strict=True)}
        return
    for i, (prompt, *whole) in enumerate(zip(encode(tokenizer, prompts), *wholes, strict=True)):
        start = shared(prompt, *whole)
        if start < len(prompt):
            counts.broken += 1
            counts.example = counts.example or tokenizer.decode(prompt[start:])
        if max_length is not None and max(map(len, whole)) > max_length:
            if start >= max_length and not keep_end:
                counts.filled += 1
                continue
            counts.cut += 1
        yield i, _shaped(form, responses, prompt[:start], whole, max_length, keep_end)


def _shaped(
    form: Form, responses: Sequence[str], prompt: list[int], whole: list[list[int]], longest: int | None, keep_end: bool
) -> dict[str, list[int]]:
    if form is Form.pairs:
        rest = {f"{name}_ids": ids[len(prompt) :] for name, ids in zip(responses, whole, strict=True)}
        return {"prompt_ids": prompt} | rest
    part = slice(None, longest) if not keep_end or longest is None else slice(-longest, None)
    [ids] = whole
    return {"input_ids": ids[part], "labels": ([-100] * len(prompt) + ids[len(prompt) :])[part]}


def shared(*rows: list[int]) -> int:
    """Number of tokens at the start that all rows share."""
    return sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*rows, strict=False)))


def _schema(form: Form, rows: "Dataset", extra: Sequence[str]) -> "pyarrow.Schema":
    import pyarrow

    names = {
        Form.completions: ("input_ids", "labels"),
        Form.pairs: ("prompt_ids", "chosen_ids", "rejected_ids"),
        Form.sequences: ("chosen_ids", "rejected_ids"),
    }[form]
    ids = pyarrow.list_(pyarrow.int32())
    return pyarrow.schema([(name, ids) for name in names] + [rows.features.arrow_schema.field(name) for name in extra])
