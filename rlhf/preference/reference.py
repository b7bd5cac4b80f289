"""The log-probabilities of a reference, of DPO or KTO, computed once per model and data set and cached on disk.

They do not depend on beta, the learning rate or the loss, so all jobs of a sweep read the cache of the first one. The
key includes everything that affects them, to the last bit: weights, ids, length, precision, batch.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow
import torch
from torch import Tensor

from rlhf.config import PreferenceStage, Settings, Strategy
from rlhf.console import Bar, console, plural
from rlhf.data import cache
from rlhf.hardware import ranks
from rlhf.runs.parents import Parent
from rlhf.storage import digests

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")  # TRL's names in DPO


class Kept(NamedTuple):
    """The cache folder, the stage, and everything that determines the numbers besides rows and batch size."""

    folder: str
    stage: str
    identity: tuple[Any, ...]


def beside_shards(settings: Settings, strategy: Strategy, told: bool = False) -> Settings:
    """Return ``settings`` of stage=dpo or stage=kto without the cache if the policy is sharded over processes."""
    stage = settings.stage_as(PreferenceStage)
    if stage.reference_free or not (strategy.sharded and stage.cache_reference):
        return settings
    if told:
        why = f"under {strategy.value} no process holds the whole policy, so stage.cache_reference is ignored"
        console.print(f"{stage.name}: {why}", highlight=False)
    return replace(settings, stage=replace(stage, cache_reference=False))


def kept(settings: Settings, parent: Parent, arguments: Any, shared: bool) -> Kept:
    """Return the cache entry of the reference ``parent`` under TRL's ``arguments``."""
    model, found = settings.model, digests.versions()
    identity = (
        parent.digest, parent.revision, model.dtype.value, model.attention, settings.adapter.kind.value == "qlora",
        arguments.max_length, getattr(arguments, "truncation_mode", None), torch.device(arguments.device).type,
        arguments.bf16, arguments.fp16, torch.get_num_threads(), shared, found["torch"], found["transformers"],
    )  # fmt: skip
    return Kept(settings.data.cache, settings.stage.name, identity)


def with_log_probs(
    rows: "Dataset",
    where: Kept,
    split: str,
    batch: int,
    weights: str,
    compute: Callable[[], Iterable[tuple[Tensor, ...]]],
    columns: tuple[str, ...] = COLUMNS,
) -> "Dataset":
    """Return ``rows`` with the reference's log-probabilities, from the cache or from ``compute``.

    ``compute`` yields the values of ``columns``, each (B,), batch by batch in order; with several processes, every n-th
    batch. ``weights`` is a digest of the model, used if ``where.identity`` has none.
    """
    from datasets import concatenate_datasets

    identity = where.identity if where.identity[0] is not None else (weights, *where.identity[1:])
    key = cache.key_of("reference log-probabilities", rows._fingerprint, batch, *identity)

    def everyone() -> Iterable[tuple[Tensor, ...]]:
        count = plural(len(rows), "pair" if columns == COLUMNS else "row")
        title = f"{where.stage}: log-probabilities of the reference ({split}, {count})"
        console.print(title, highlight=False)
        own = shown(f"{where.stage}: reference", compute(), -(-len(rows) // batch))
        return dealt(ranks.gathered([*own])) if ranks.started() else own

    # No process may wait for one that reads the cache: all of them compute together, or none.
    together = ranks.started() and ranks.anywhere(not cache.holds(where.folder, key))
    found = list(everyone()) if together else None

    schema = pyarrow.schema([(name, pyarrow.float32()) for name in columns])

    def build(writer: cache.Writer) -> dict[str, Any]:
        for batch in everyone() if found is None else found:
            lists = [values.float().tolist() for values in batch]
            writer.write([dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)], schema)
        return {}

    table, _ = cache.table(where.folder, key, "the reference's log-probabilities", build)
    assert table is not None  # it has as many rows as ``rows``
    return concatenate_datasets([rows, table], axis=1)


def shown(title: str, batches: Iterable[tuple[Tensor, ...]], total: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield ``batches`` with a progress bar that counts those of all processes."""
    bar = Bar(title, total)
    try:
        for number, batch in enumerate(batches, 1):
            yield batch
            bar.update(number * ranks.size())
    finally:
        bar.close()


def dealt(parts: Iterable[Iterable[tuple[Tensor, ...]]]) -> Iterator[tuple[Tensor, ...]]:
    """Yield the batches of ``parts`` in turn: the original order of batches that were distributed round-robin."""
    return (batch for batch in chain.from_iterable(zip_longest(*parts)) if batch is not None)
