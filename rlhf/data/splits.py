"""Checks before training: problems of the rows, and leaks into the data of evaluations."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.config import Data
from rlhf.data import cache
from rlhf.data.checks import Leaks, leaks, refuse_leaks, surveyed
from rlhf.data.formats import Kind
from rlhf.data.load import load
from rlhf.data.rows import prompt_key, unit_hash
from rlhf.data.sources import plan, source_name, source_of
from rlhf.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)


def check_splits(data: Data, kind: Kind, rows: dict[str, "Dataset"], seed: int) -> None:
    """Warn of each problem of the training rows in one line, and refuse leaks.

    A leak is a prompt of the training split that is also in a held-out split: any other split in ``rows``, and the
    prompts on which policies are compared, if they are on this machine.

    Raises:
        DataError: there is a leak and ``data.allow_leaks`` is false.
    """
    train = rows["train"]
    for problem in surveyed(train, data.cache).problems():
        log.warning("data.%s (train): %s", source_name(kind), problem)
    held_out = {f"{source_name(kind)} ({split})": found for split, found in rows.items() if split != "train"}
    held_out |= {} if _divided(data, kind, rows, seed) else evaluated_on(data, kind, seed)
    for name, found in held_out.items():
        trained = f"data.{source_name(kind)} (train)"
        refuse_leaks(leaks_between(train, found, data.cache), trained, f"data.{name}", data.allow_leaks)


def _divided(data: Data, kind: Kind, rows: dict[str, "Dataset"], seed: int) -> bool:
    """Return whether the prompts of stage=compare are the held-out part of the file of ``rows``.

    Both are divided by the hash of the prompt, so they share none, and the file is not read again. A small file
    that the hash does not divide (rlhf.data.load) is read.
    """
    sources = {kind: source_of(data, kind), "prompts": source_of(data, "prompts")}
    if kind == "text" or any(source.mix or source.path is None for source in sources.values()):
        return False
    if len({(source.path, source.train) for source in sources.values()}) > 1 or "validation" not in rows:
        return False
    if not (plan(sources[kind], kind, "validation")[1] and plan(sources["prompts"], "prompts", "test")[1]):
        return False
    held_out, trained = (unit_hash(seed, prompt_key(rows[split][0])) for split in ("validation", "train"))
    return held_out < data.holdout <= trained


def evaluated_on(data: Data, kind: Kind, seed: int) -> dict[str, "Dataset"]:
    """Return the prompts of stage=compare, if they are available without a download and apply to this kind."""
    paths = source_of(data, "prompts").paths
    if kind == "text" or not paths or not all(Path(path).expanduser().exists() for path in paths):
        return {}
    try:
        return {"prompts (test)": load(data, "prompts", "test", seed, tell=False)}
    except DataError:
        return {}  # the stage that reads these rows reports their errors


def leaks_between(train: "Dataset", held_out: "Dataset", folder: str) -> Leaks:
    """Return the `leaks`, from the cache if they were counted before."""
    key = cache.key_of("leaks", train._fingerprint, held_out._fingerprint)
    return Leaks(*cache.value(folder, key, lambda: list(leaks(train, held_out))))
