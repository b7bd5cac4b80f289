"""The identity of a data set: its rows, their order and nothing else."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any


def fingerprint(dataset: Iterable[dict[str, Any]]) -> str:
    """sha256, in hexadecimal, over the rows as JSON with sorted keys, one a line, in their order.

    The same rows give the same digest in every process and on every machine, however they were loaded; another order,
    or one character more, gives another.
    """
    digest = hashlib.sha256()
    for row in dataset:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()
