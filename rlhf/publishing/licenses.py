"""Licenses of a chain's models and data: the license that follows for the model, and conflicts with it.

Names are the Hub's (https://huggingface.co/docs/hub/repositories-licenses). This compares names and is not legal
advice, which the card states.
"""

from collections.abc import Mapping
from pathlib import Path

PERMISSIVE = (
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "odc-by", "unlicense",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "isc", "bsl-1.0", "wtfpl",
)  # fmt: skip
SHARE_ALIKE = ("cc-by-sa-", "gpl", "agpl", "lgpl", "cdla-sharing", "odbl", "mpl")
UNKNOWN = "unknown"
# Requirements of licenses, in increasing order of strictness.
KINDS = {
    "permissive": "requires attribution at most",
    "share-alike": "requires the same license for derived works",
    "own terms": "has special terms, which apply to derived works",
    UNKNOWN: "states no known license, so that nothing is granted",
    "non-commercial": "forbids commercial use",
    "no derivatives": "forbids sharing derived works",
}


def kind(license: str) -> str:
    """Return the entry of ``KINDS`` that a license belongs to."""
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
    """Return the license in ``table`` of a Hub id or path, or of one of its parts, from the last to the first."""
    parts = (name, *reversed(Path(name).parts))
    return next((table[part] for part in parts if part in table), UNKNOWN)


def strictest(found: Mapping[str, str]) -> str:
    """Return the strictest license, the first among equals; ``apache-2.0``, this project's, if ``found`` is empty."""
    order = list(KINDS)
    return max(found.values(), key=lambda license: order.index(kind(license)), default="apache-2.0")


def conflicts(stated: str, found: Mapping[str, str]) -> list[str]:
    """Return a sentence for each of ``found`` (title -> license) that the model's ``stated`` license violates."""
    sentences = []
    for title, license in found.items():
        rank, terms = list(KINDS).index(kind(license)), KINDS[kind(license)]
        binds = kind(license) in ("share-alike", "own terms", UNKNOWN)
        if kind(license) == "no derivatives":
            sentences.append(f"{title} ({license}) {terms}, such as this model.")
        elif rank > list(KINDS).index(kind(stated)) or (binds and license != stated):
            sentences.append(f"{title} ({license}) {terms}; this model is published as {stated}.")
    return sentences
