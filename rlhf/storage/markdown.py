"""Markdown tables."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rlhf.console import printable

MARKUP = "\\`*_[]|#~$<>&"
LINK = re.compile(r":(?=//)|(?<=www)\.|@", re.IGNORECASE)  # turned into links by GitHub without any markup


def cell(text: str) -> str:
    """Return a text escaped for a cell of a Markdown table: no HTML, markup, link or line break."""
    safe = "".join(f"&#{ord(char)};" if char in MARKUP else char for char in printable(text))
    return LINK.sub(lambda found: f"&#{ord(found[0])};", safe).replace("\n", "<br>")


def table(
    headings: Sequence[str], lines: Iterable[Iterable[Any]], escape: Callable[[Any], str] = cell
) -> Iterator[str]:
    """Yield the lines of a table; ``escape`` makes a cell of each value."""
    yield "| " + " | ".join(map(escape, headings)) + " |"
    yield "|" + " --- |" * len(headings)
    for line in lines:
        yield "| " + " | ".join(map(escape, line)) + " |"
