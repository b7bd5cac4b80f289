"""Write JSON files whole or not at all."""

import json
import os
from enum import Enum
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """Return an enumeration's value or a path's text, which json cannot write by itself."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` so that the file is there whole or not at all."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=plain) + "\n", encoding="utf-8")
    os.replace(aside, path)
