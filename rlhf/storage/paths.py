"""Where the directories that ship with the package are, in a checkout and in an installed wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def bundled(name: str) -> Path:
    """Path of a directory shipped with rlhf: inside the package in a wheel, beside it in a checkout."""
    installed = PACKAGE / name
    return installed if installed.exists() else PACKAGE.parent / name
