"""The benchmarks by name, and their items from a file, a folder as released, or a data set on the Hub."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rlhf.config import Benchmark, EvaluateRewardStage
from rlhf.data.files import Unparsed, read_rows, reader_of, row_of
from rlhf.data.rows import Row, RowError
from rlhf.data.sources import HUB_ID, hub_rows
from rlhf.errors import DataError
from rlhf.evaluation.benchmarks import definitions, items
from rlhf.evaluation.benchmarks.definitions import Definition, Scores
from rlhf.evaluation.benchmarks.items import Item
from rlhf.hub.pinned import pin
from rlhf.modeling.seeding import derive


class Released(NamedTuple):
    """How a benchmark is read and what it reports.

    ``splits`` are those of the Hub. ``files`` are patterns of names in a folder: the first pattern with a file counts;
    without one, all files are read.
    """

    read: Callable[[Row, str], Item | None]
    define: Callable[[Sequence[Item], Scores], Definition]
    splits: tuple[str, ...]
    files: tuple[str, ...]


TABLE = {
    Benchmark.rewardbench: Released(items.rewardbench, definitions.rewardbench, ("filtered",), ("filtered*",)),
    Benchmark.rewardbench2: Released(items.rewardbench2, definitions.rewardbench2, ("test",), ("test*",)),
    Benchmark.rm_bench: Released(
        items.rm_bench, definitions.rm_bench, ("train",), ("total_dataset.json", "*_filtered.json")
    ),
    Benchmark.judgebench: Released(
        items.judgebench, definitions.judgebench, ("gpt",), ("gpt*", "*response_model=gpt-4o-2024-05-13.jsonl")
    ),
    Benchmark.llmbar: Released(items.llmbar, definitions.llmbar, (), ("dataset.json",)),
    Benchmark.rmb: Released(items.rmb, definitions.rmb, (), ()),
    Benchmark.ppe: Released(items.ppe, definitions.ppe, ("all",), ()),
}
PRIOR = Released(
    items.prior, definitions.rewardbench, definitions.PRIOR_SETS, tuple(f"{name}*" for name in definitions.PRIOR_SETS)
)


def load(stage: EvaluateRewardStage) -> list[Item]:
    """Return the items of ``stage.benchmark``, and those of RewardBench's prior sets if ``stage.prior_sets`` is set.

    Raises:
        DataError: there are no rows, or a row cannot be read.
    """
    assert stage.benchmark is not None
    found = _read(TABLE[stage.benchmark], stage.benchmark_path or "", "stage.benchmark_path")
    return found if stage.prior_sets is None else found + _read(PRIOR, stage.prior_sets, "stage.prior_sets")


def _read(released: Released, path: str, key: str) -> list[Item]:
    local = Path(path).expanduser()
    parts: Iterator[tuple[str, Iterator[Unparsed]]]
    if local.exists():
        local = local.resolve()
        parts = ((str(file.relative_to(local.parent)), read_rows(file)) for file in files(local, released.files))
    elif on_hub(path):
        parts = ((f"{path}/{split}", hub_rows(path, split, key)[1]) for split in released.splits)
    else:
        raise DataError(f"{key}={path}: there is no such file or folder: correct the name, or use a Hub id")
    found = [item for place, rows in parts for item in _items(released.read, rows, place)]
    if not found:
        raise DataError(f"{key}={path} has no rows: set another file, folder or Hub id")
    return found


def on_hub(path: str) -> bool:
    """Return whether the path is read as an id of the Hub."""
    local = Path(path).expanduser()
    return not local.exists() and HUB_ID.fullmatch(path) is not None and reader_of(local) is None


def at_commit(path: str | None) -> str | None:
    """Return a path, with the commit in the place of the revision if it is an id of the Hub that can be reached."""
    if path is None or not on_hub(path):
        return path
    id, _, revision = path.partition("@")
    pinned = pin(id, revision or None, "dataset")
    return path if pinned is None else f"{id}@{pinned.commit}"


def _items(read: Callable[[Row, str], Item | None], rows: Iterator[Unparsed], place: str) -> Iterator[Item]:
    for where, row in rows:
        try:
            item = read(row_of(where, row), place)
        except RowError as error:
            raise DataError(f"{where}: {error}") from None
        if item is not None:
            yield item


def files(local: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the files of rows to read: ``local`` itself, or those below it that match the first pattern with any."""
    if local.is_file():
        return [local]
    every = [path for path in sorted(local.rglob("*")) if path.is_file() and reader_of(path) is not None]
    found = ([file for file in every if file.match(pattern)] for pattern in patterns)
    return next((matching for matching in found if matching), every)


def drawn(rows: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """Return at most ``limit`` items in their order, drawn with the seed from each subset in proportion to its size.

    Each subset has at least one if ``limit`` allows it. The two rows of a prompt of RewardBench 2's ties stay together.
    """
    if limit is None or limit >= len(rows):
        return list(rows)
    subsets: dict[str, dict[str, list[int]]] = {}
    for number, item in enumerate(rows):
        key = item.id.partition(":")[2] if item.subset.lower() == definitions.TIES.lower() else str(number)
        subsets.setdefault(item.subset, {}).setdefault(key, []).append(number)
    generator = random.Random(derive(seed, "benchmark"))
    order = []
    for groups in subsets.values():
        for place, group in enumerate(generator.sample(list(groups.values()), len(groups))):
            order.append((place / len(groups), generator.random(), group))
    kept: list[int] = []
    for _, _, group in sorted(order):
        kept += group if len(kept) + len(group) <= limit else []
    return [rows[number] for number in sorted(kept)]
