"""Preference data, demonstrations, prompts and text as people have them, read into one set of types."""

from rlhf.data.checks import check_leaks, duplicates, leaks, statistics
from rlhf.data.fingerprint import fingerprint
from rlhf.data.formats import Converter, Kind, detect
from rlhf.data.load import load, load_source

__all__ = [
    "Converter",
    "Kind",
    "check_leaks",
    "detect",
    "duplicates",
    "fingerprint",
    "leaks",
    "load",
    "load_source",
    "statistics",
]
