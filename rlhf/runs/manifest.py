"""Read run.json."""

import json
from pathlib import Path
from typing import Any

from rlhf.errors import RunError
from rlhf.storage.json_files import MANIFEST


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The run.json in ``directory``, or None where there is none.

    Raises:
        RunError: the file is there but is no JSON object.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): delete the directory and run the stage again") from error
    if not isinstance(manifest, dict):
        raise RunError(f"{path} is not a run's manifest: delete the directory and run the stage again")
    return manifest
