"""Write JSON files atomically."""

import json
import os
from enum import Enum
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """Return the value of an enumeration or the text of a path, neither of which json can write."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically: a crash leaves the earlier file or none."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=plain) + "\n", encoding="utf-8")
    os.replace(aside, path)
