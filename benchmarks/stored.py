"""Results of a script that is run in parts, such as a few seeds or options at a time, in one file."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from rlhf.storage.json_files import write_json

Rows = list[dict[str, Any]]


def add(path: Path, rows: Rows, keys: Sequence[str], script: str) -> Rows:
    """Write ``rows`` into the file, in the place of those with the same ``keys``; return all rows, sorted by these.

    The file lists each command, with its date and machine, below the ones before it.
    """
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"commands": [], "rows": []}
    found = {tuple(row[key] for key in keys): row for row in [*stored["rows"], *rows]}
    machine = {"date": date.today().isoformat(), "processor": platform.processor() or platform.machine(),
               "threads": os.environ.get("OMP_NUM_THREADS"), "python": platform.python_version()}  # fmt: skip
    command = {"command": shlex.join(["python", "-m", script, *sys.argv[1:]]), "machine": machine}
    kept = [found[key] for key in sorted(found)]
    write_json(path, {"commands": [*stored["commands"], command], "rows": kept})
    return kept
