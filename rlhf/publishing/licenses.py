"""Licenses of a chain's models and data: what follows for the model that comes of them, and where they contradict it.

Names are the Hub's (https://huggingface.co/docs/hub/repositories-licenses). This compares names; it is no legal advice,
and the card says so.
"""

from collections.abc import Mapping
from pathlib import Path

PERMISSIVE = (
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "odc-by", "unlicense",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "isc", "bsl-1.0", "wtfpl",
)  # fmt: skip
SHARE_ALIKE = ("cc-by-sa-", "gpl", "agpl", "lgpl", "cdla-sharing", "odbl", "mpl")
UNKNOWN = "unknown"
# What a license asks for, by how far it binds: the last that applies is the strictest.
KINDS = {
    "permissive": "asks for credit at most",
    "share-alike": "asks that what is made of it has the same license",
    "own terms": "has terms of its own, which go with what is made of it",
    UNKNOWN: "states no license that is known here, so that nothing is granted",
    "non-commercial": "forbids commercial use",
    "no derivatives": "forbids to share what is made of it",
}


def kind(license: str) -> str:
    """Which of ``KINDS`` a license is."""
    name = license.lower()
    if name in PERMISSIVE:
        return "permissive"
    if name == UNKNOWN:
        return UNKNOWN
    if "-nd" in name:
        return "no derivatives"
    if "-nc" in name:
        return "non-commercial"
    return "share-alike" if name.startswith(SHARE_ALIKE) else "own terms"


def listed(name: str, table: Mapping[str, str]) -> str:
    """The license that ``table`` gives for a Hub id or a path: under the whole, or one of its parts, the last first."""
    parts = (name, *reversed(Path(name).parts))
    return next((table[part] for part in parts if part in table), UNKNOWN)


def strictest(found: Mapping[str, str]) -> str:
    """The license that binds furthest, among equals the first; where nothing has one ``apache-2.0``, this project's."""
    order = list(KINDS)
    return max(found.values(), key=lambda license: order.index(kind(license)), default="apache-2.0")


def conflicts(stated: str, found: Mapping[str, str]) -> list[str]:
    """Sentences, one for each of ``found`` (title -> license) that what is stated for the model does not respect."""
    told = []
    for title, license in found.items():
        rank, what = list(KINDS).index(kind(license)), KINDS[kind(license)]
        binds = kind(license) in ("share-alike", "own terms", UNKNOWN)
        if kind(license) == "no derivatives":
            told.append(f"{title} ({license}) {what}, which this model is.")
        elif rank > list(KINDS).index(kind(stated)) or (binds and license != stated):
            told.append(f"{title} ({license}) {what}; this model is published as {stated}.")
    return told
