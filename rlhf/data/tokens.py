"""Rows as the token ids that a trainer takes: rendered and tokenized once, on disk, and counted.

The response begins at the first token in which the bare prompt and the prompt with its response differ; a rendered
string is never cut at the prompt's length. Rows in which a response changes the rendered prompt are counted, since a
policy is later asked another question than it was trained on.

Every turn of the assistant in a conversation is learned; in preference pairs, every one after the conversations
diverge. rlhf.data.turns finds their places.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf.config import Turns
from rlhf.data import cache, workers
from rlhf.data.formats import Kind
from rlhf.data.render import Prompt, encode, holds, shared, special_pattern, strings_are_turns
from rlhf.data.turns import Said, said_in
from rlhf.storage.digests import tokenizer_record

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

RESPONSES = {
    "demonstrations": ("completion",), "preferences": ("chosen", "rejected"), "prompts": (), "thumbs": ("completion",),
}  # fmt: skip
HEARD = ("chosen_heard", "rejected_heard")  # columns of pairs: see `_heard`
CUT = "longer than max_length, cut"
FILLED = "prompt fills max_length, left out"
BROKEN = "token boundary differs between bare prompt and prompt + response"
LONG = "prompt longer than max_prompt_length, left out"
UNLEARNED = "no turn to learn, left out: the assistant's have weight 0"
REWRITTEN = "earlier turns are rendered otherwise than when they were the last, so only the last turn is learned"


class Form(Enum):
    """The columns that a trainer takes."""

    completions = "completions"  # input_ids and labels: TRL's SFTTrainer; cut to max_length
    pairs = "pairs"  # prompt_ids, chosen_ids and rejected_ids: DPOTrainer, whose collator cuts
    sequences = "sequences"  # chosen_ids and rejected_ids, prompts included: RewardTrainer, which leaves long ones out
    thumbs = "thumbs"  # prompt_ids and completion_ids: KTOTrainer, whose collator cuts
    prompts = "prompts"  # prompt_ids and row, the number of the prompt: our PPOTrainer; longer ones are left out

    @property
    def kind(self) -> Kind:
        """The kind of data that is tokenized in this form."""
        kinds: dict[str, Kind] = {"completions": "demonstrations", "prompts": "prompts", "thumbs": "thumbs"}
        return kinds.get(self.value, "preferences")


@dataclass
class Counts:
    """Counts of tokenized rows, numbers of rows unless noted."""

    cut: int = 0
    filled: int = 0  # the prompt fills max_length, so nothing of the response would remain
    broken: int = 0  # the tokens of the bare prompt are not the beginning of those with a response
    special: int = 0  # the row contains the text of a special token, which is encoded as text
    example: str | None = None  # the end of the first broken prompt, which the response replaces
    turns: int = 0  # number of the assistant's turns that may be learned
    learned: int = 0  # number of the assistant's turns that are learned
    unlearned: int = 0
    rewritten: int = 0
    heard: int = 0  # pairs or thumbs in which another role speaks between the assistant's turns

    def add(self, more: "Counts") -> None:
        """Add the counts of later rows."""
        for name, count in vars(more).items():
            own = getattr(self, name)
            setattr(self, name, (own or count) if name == "example" else own + count)


class Way(NamedTuple):
    """How rows are tokenized: see `tokenized`."""

    form: Form
    max_length: int | None
    extra: tuple[str, ...]
    keep_end: bool
    turns: Turns


def tokenized(
    rows: "Dataset",
    form: Form,
    tokenizer: Any,
    max_length: int | None,
    folder: str,
    extra: Sequence[str] = (),
    keep_end: bool = False,
    turns: Turns = Turns.all,
    processes: int | None = 1,
) -> tuple["Dataset | None", Counts]:
    """Return ``rows`` as ids in the form that a trainer takes, with the columns ``extra``; None if no row is left.

    A row of more than ``max_length`` tokens loses its end. If its prompt fills ``max_length``, the row is left out, as
    in TRL; with ``keep_end`` (TRL's truncation_mode) some of the response always remains. ``processes``: see
    rlhf.data.workers.count.
    """
    way = Way(form, max_length, tuple(extra), keep_end, turns)
    key = cache.key_of(rows._fingerprint, form.value, *way[1:], *identity(tokenizer))

    def build(writer: cache.Writer) -> dict[str, Any]:
        counts, starts = Counts(), range(0, len(rows), cache.BATCH)
        batches = (range(len(rows))[start : start + cache.BATCH] for start in starts)
        several = len(rows) >= workers.ENOUGH and workers.sendable(tokenizer)
        count = workers.count(processes) if several else 1
        for made, counted in workers.mapped(_batch, (rows, tokenizer, way), batches, count):
            counts.add(counted)
            if made is not None:
                writer.append(made)
        return vars(counts)

    found, counted = cache.table(folder, key, "the tokenized rows", build)
    counts = Counts(**counted)
    if found is not None and form in (Form.pairs, Form.thumbs) and not counts.heard:
        kept = [name for name in found.column_names if not name.endswith("_heard")]
        found = found.select_columns(kept, new_fingerprint=key)
    return found, counts


def identity(tokenizer: Any) -> list[Any]:
    """Return the properties of a tokenizer that decide its ids: vocabulary, rules, chat template, special tokens."""
    rules = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else repr(tokenizer)
    return [tokenizer_record(tokenizer), strings_are_turns(tokenizer), hashlib.sha256(rules.encode()).hexdigest()]


def _prompts(
    prompts: list[Prompt], first: int, tokenizer: Any, max_length: int | None, counts: Counts
) -> Iterator[tuple[int, dict[str, Any]]]:
    pattern = special_pattern(tokenizer)
    counts.special += sum(holds(pattern, prompt) for prompt in prompts)
    for i, ids in enumerate(encode(tokenizer, prompts)):
        if max_length is not None and len(ids) > max_length:
            counts.filled += 1
        else:
            yield i, {"prompt_ids": ids, "row": first + i}


def _batch(rows: "Dataset", tokenizer: Any, way: Way, places: range) -> tuple["pyarrow.RecordBatch | None", Counts]:
    """Return the token ids of the rows at ``places``, and their counts."""
    counts, batch = Counts(), rows[places.start : places.stop]
    if way.form is Form.prompts:
        made = _prompts(batch["prompt"], places.start, tokenizer, way.max_length, counts)
    else:
        made = _rows(batch, tokenizer, way, counts)
    kept = [ids | {name: batch[name][i] for name in way.extra} for i, ids in made]
    return cache.record_batch(kept, _schema(way.form, rows, way.extra)) if kept else None, counts


def _rows(
    batch: dict[str, list], tokenizer: Any, way: Way, counts: Counts
) -> Iterator[tuple[int, dict[str, list[int]]]]:
    form, max_length, _, keep_end, turns = way
    responses = RESPONSES[form.kind]
    prompts, pattern = batch["prompt"], special_pattern(tokenizer)
    counts.special += sum(
        any(holds(pattern, text) for text in (prompt, *texts))
        for prompt, *texts in zip(prompts, *(batch[name] for name in responses), strict=True)
    )
    known: dict[str, list[int]] = {}
    wholes = [encode(tokenizer, prompts, batch[name], known) for name in responses]
    if form is Form.sequences:
        for i, whole in enumerate(zip(*wholes, strict=True)):
            yield i, {f"{name}_ids": ids for name, ids in zip(responses, whole, strict=True)}
        return
    every = form is Form.completions and turns is Turns.all
    said = [said_in(tokenizer, prompts, batch[name], ids, every) for name, ids in zip(responses, wholes, strict=True)]
    for i, (prompt, *whole) in enumerate(zip(encode(tokenizer, prompts, known=known), *wholes, strict=True)):
        start = shared(prompt, *whole)
        if start < len(prompt):
            counts.broken += 1
            counts.example = counts.example or tokenizer.decode(prompt[start:])
        spans = [] if form is not Form.completions else _learned(said[0][i], start, len(whole[0]), turns, counts)
        if form is Form.completions:
            if not spans:
                counts.unlearned += 1
                continue
            start = spans[0][0]
        if max_length is not None and max(map(len, whole)) > max_length:
            if start >= max_length and not keep_end:
                counts.filled += 1
                continue
            counts.cut += 1
        if form is Form.completions:
            yield i, _labeled(whole[0], spans, max_length, keep_end)
            continue
        rest = {f"{name}_ids": ids[start:] for name, ids in zip(responses, whole, strict=True)}
        heard = _heard_in([found[i] for found in said], start, whole, counts)
        others = {f"{name}_heard": bounds for name, bounds in zip(responses, heard, strict=True)}
        yield i, {"prompt_ids": prompt[:start]} | rest | others


def _learned(said: Said, start: int, end: int, turns: Turns, counts: Counts) -> list[tuple[int, int]]:
    """Return the spans of learned tokens; the completion begins at ``start``, and the row ends at ``end``."""
    counts.turns += said.count
    if said.spans is None:
        found = [(start, end)] if said.last else []
    elif turns is Turns.all and said.stable:
        found = said.spans
    else:
        counts.rewritten += turns is Turns.all and said.count > 1
        found = said.spans[-1:] if said.last else []
    counts.learned += len(found)
    return found


def _heard_in(said: list[Said], start: int, whole: list[list[int]], counts: Counts) -> list[list[int]]:
    """Return `_heard` of each response of a pair, and count pairs with other roles or rewritten turns."""
    heard = [_heard(one, start, len(ids)) for one, ids in zip(said, whole, strict=True)]
    counts.heard += any(heard)
    counts.rewritten += not all(one.stable for one in said)
    return heard


def _heard(said: Said, start: int, end: int) -> list[int]:
    """Return the bounds of other roles' turns after ``start``, relative to it: [begin, end, begin, end, ...]."""
    if said.spans is None:
        return []
    inside = [(max(a, start) - start, b - start) for a, b in said.spans if b > start]
    borders = [0, *(bound for span in inside for bound in span), end - start]
    return [bound for pair in zip(borders[::2], borders[1::2], strict=True) if pair[0] < pair[1] for bound in pair]


def _labeled(ids: list[int], spans: list[tuple[int, int]], longest: int | None, keep_end: bool) -> dict[str, list[int]]:
    part = slice(None, longest) if not keep_end or longest is None else slice(-longest, None)
    labels = [-100] * len(ids)
    for begin, end in spans:
        labels[begin:end] = ids[begin:end]
    return {"input_ids": ids[part], "labels": labels[part]}


def _schema(form: Form, rows: "Dataset", extra: Sequence[str]) -> "pyarrow.Schema":
    import pyarrow

    names = {
        Form.completions: ("input_ids", "labels"),
        Form.pairs: ("prompt_ids", "chosen_ids", "rejected_ids", *HEARD),
        Form.thumbs: ("prompt_ids", "completion_ids", "completion_heard"),
        Form.sequences: ("chosen_ids", "rejected_ids"),
        Form.prompts: ("prompt_ids",),
    }[form]
    ids = pyarrow.list_(pyarrow.int32())
    numbers = [("row", pyarrow.int64())] if form is Form.prompts else []
    return pyarrow.schema(
        [(name, ids) for name in names] + numbers + [rows.features.arrow_schema.field(name) for name in extra]
    )
