"""The identity of a data set: its rows and their order."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any


def fingerprint(dataset: Iterable[dict[str, Any]]) -> str:
    """Return the sha256, in hexadecimal, over the rows as JSON with sorted keys, one per line, in their order.

    The same rows have the same digest in every process and on every machine, however they were loaded. Any change of
    their order or content changes it.
    """
    digest = hashlib.sha256()
    for row in dataset:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()
