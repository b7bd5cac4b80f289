"""The log-probabilities of DPO's reference, computed once for a model and its data and kept on disk.

The reference does not change, and neither beta, the learning rate nor the loss has a say in it: all runs of a sweep
read what the first one wrote. The key holds what has a say, the last bit included: weights, ids, length, precision,
batch.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow
import torch
from torch import Tensor

from rlhf import provenance
from rlhf.config import Settings
from rlhf.data import cache
from rlhf.parents import Parent
from rlhf.progress import console

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")  # TRL's names
SCHEMA = pyarrow.schema([(name, pyarrow.float32()) for name in COLUMNS])


class Kept(NamedTuple):
    """Where they are kept, and what decides them besides the rows and the batch."""

    folder: str
    stage: str
    identity: tuple[Any, ...]


def kept(settings: Settings, parent: Parent, arguments: Any, shared: bool) -> Kept:
    """Those of ``parent`` under TRL's ``arguments``."""
    model, found = settings.model, provenance.versions()
    identity = (
        parent.digest, parent.revision, model.dtype.value, model.attention, settings.adapter.kind.value == "qlora",
        arguments.max_length, arguments.truncation_mode, str(arguments.device), arguments.bf16, arguments.fp16,
        torch.get_num_threads(), shared, found["torch"], found["transformers"],
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

    ``weights`` is a digest of the model for a folder that has none of its own.
    """
    from datasets import concatenate_datasets

    identity = where.identity if where.identity[0] is not None else (weights, *where.identity[1:])
    key = cache.key_of("reference log-probabilities", rows._fingerprint, batch, *identity)

    def build(writer: cache.Writer) -> dict[str, Any]:
        told = f"{where.stage}: log-probabilities of the reference ({split}, {len(rows)} pairs)"
        console.print(told, highlight=False)
        for pair in compute():
            chosen, rejected = (values.float().tolist() for values in pair)
            writer.write([dict(zip(COLUMNS, both, strict=True)) for both in zip(chosen, rejected, strict=True)], SCHEMA)
        return {}

    found, _ = cache.table(where.folder, key, "the reference's log-probabilities", build)
    return concatenate_datasets([rows, found], axis=1)
