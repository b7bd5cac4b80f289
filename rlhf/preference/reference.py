"""The log-probabilities of DPO's reference, computed once for a model and its data and kept on disk.

The reference does not change, and neither beta, the learning rate nor the loss has a say in it: all runs of a sweep
read what the first one wrote. The key holds what has a say, the last bit included: weights, ids, length, precision,
batch.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow
import torch
from torch import Tensor

from rlhf.config import Settings, Strategy
from rlhf.console import Bar, console
from rlhf.data import cache
from rlhf.hardware import ranks
from rlhf.runs.parents import Parent
from rlhf.storage import digests

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")  # TRL's names
SCHEMA = pyarrow.schema([(name, pyarrow.float32()) for name in COLUMNS])


class Kept(NamedTuple):
    """Where they are kept, and what decides them besides the rows and the batch."""

    folder: str
    stage: str
    identity: tuple[Any, ...]


def beside_shards(settings: Settings, strategy: Strategy, told: bool = False) -> Settings:
    """``settings`` of a DPO that keeps nothing where no process holds a whole policy to compute it by."""
    if not (strategy.sharded and settings.stage.cache_reference):
        return settings
    if told:
        why = f"dpo: under {strategy.value} no process holds a whole policy, so stage.cache_reference is taken as false"
        console.print(why, highlight=False)
    return replace(settings, stage=replace(settings.stage, cache_reference=False))


def kept(settings: Settings, parent: Parent, arguments: Any, shared: bool) -> Kept:
    """Those of ``parent`` under TRL's ``arguments``."""
    model, found = settings.model, digests.versions()
    identity = (
        parent.digest, parent.revision, model.dtype.value, model.attention, settings.adapter.kind.value == "qlora",
        arguments.max_length, arguments.truncation_mode, torch.device(arguments.device).type, arguments.bf16,
        arguments.fp16, torch.get_num_threads(), shared, found["torch"], found["transformers"],
    )  # fmt: skip
    return Kept(settings.data.cache, settings.stage.name, identity)


def with_log_probs(
    rows: "Dataset",
    where: Kept,
    split: str,
    batch: int,
    weights: str,
    compute: Callable[[], Iterable[tuple[Tensor, Tensor]]],
) -> "Dataset":
    """``rows`` with the reference's log-probabilities, as kept or as ``compute`` yields them, batch by batch in order.

    Of several processes each computes its part of them: ``compute`` then yields every so-many-th batch.
    ``weights`` is a digest of the model for a folder that has none of its own.
    """
    from datasets import concatenate_datasets

    identity = where.identity if where.identity[0] is not None else (weights, *where.identity[1:])
    key = cache.key_of("reference log-probabilities", rows._fingerprint, batch, *identity)

    def everyone() -> Iterable[tuple[Tensor, Tensor]]:
        told = f"{where.stage}: log-probabilities of the reference ({split}, {len(rows)} pairs)"
        console.print(told, highlight=False)
        own = shown(f"{where.stage}: reference", compute(), -(-len(rows) // batch))
        return dealt(ranks.gathered([*own])) if ranks.started() else own

    # None may wait for what another one read: they compute it together, or not at all.
    together = ranks.started() and ranks.anywhere(not cache.holds(where.folder, key))
    found = list(everyone()) if together else None

    def build(writer: cache.Writer) -> dict[str, Any]:
        for pair in everyone() if found is None else found:
            chosen, rejected = (values.float().tolist() for values in pair)
            writer.write([dict(zip(COLUMNS, both, strict=True)) for both in zip(chosen, rejected, strict=True)], SCHEMA)
        return {}

    table, _ = cache.table(where.folder, key, "the reference's log-probabilities", build)
    return concatenate_datasets([rows, table], axis=1)


def shown(title: str, batches: Iterable[tuple[Tensor, Tensor]], total: int) -> Iterator[tuple[Tensor, Tensor]]:
    """``batches``, behind a bar; of several processes, all make as many."""
    bar = Bar(title, total)
    try:
        for number, batch in enumerate(batches, 1):
            yield batch
            bar.update(number * ranks.size())
    finally:
        bar.close()


def dealt(parts: Iterable[Iterable[tuple[Tensor, Tensor]]]) -> Iterator[tuple[Tensor, Tensor]]:
    """In their order, batches that were dealt out to ``parts`` in turn."""
    return (batch for batch in chain.from_iterable(zip_longest(*parts)) if batch is not None)
