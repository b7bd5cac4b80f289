"""Preference pairs, demonstrations, prompts and text in many layouts, read into one set of types."""

from rlhf.data.checks import leaks, survey
from rlhf.data.detection import detect
from rlhf.data.fingerprint import fingerprint
from rlhf.data.formats import Converter, Kind
from rlhf.data.load import load, load_rows, load_source
from rlhf.data.splits import check_splits

__all__ = [
    "Converter",
    "Kind",
    "check_splits",
    "detect",
    "fingerprint",
    "leaks",
    "load",
    "load_rows",
    "load_source",
    "survey",
]
