"""The tree of runs: each run below the one that it was trained from."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.text import Text
from rich.tree import Tree


class Line(NamedTuple):
    """A run in a drawing: the number of runs above it, its name, and the text about it."""

    level: int
    name: str
    text: str = ""

    @property
    def whole(self) -> str:
        """Name and text."""
        return f"{self.name}: {self.text}" if self.text else self.name


def nested(parents: Mapping[str, Sequence[str]]) -> list[tuple[str, int]]:
    """Return each key of ``parents`` with the number of keys above it, in the order of a drawing.

    ``parents``: key -> the keys that it descends from, the nearest first. A key is below the first of them that is a
    key, and never below itself: a run may have replaced its own parent.
    """
    above: dict[str, str | None] = {}
    below: dict[str | None, list[str]] = {}

    def put(key: str, others: tuple[str, ...] = ()) -> None:
        if key in above:
            return
        others = (*others, key)
        found = next((one for one in parents[key] if one in parents and one not in others), None)
        if found is not None:
            put(found, others)
        above[key] = found
        below.setdefault(found, []).append(key)

    for key in parents:
        put(key)

    def walk(key: str | None, level: int) -> Iterator[tuple[str, int]]:
        for one in below.get(key, ()):
            yield one, level
            yield from walk(one, level + 1)

    return list(walk(None, 0))


def updates(manifest: Mapping[str, Any]) -> list[str]:
    """Return the update that a branch started from, as a phrase; empty for other runs."""
    return [f"from update {record['update']}" for record in manifest["parents"].values() if "update" in record]


def draw(title: Text, lines: Iterable[Line]) -> Tree:
    """Return the drawing for a terminal."""
    places = [Tree(title)]
    for line in lines:
        del places[line.level + 1 :]
        places.append(places[-1].add(Text(line.whole)))
    return places[0]


def among(lines: Iterable[Line], names: Container[str]) -> list[Line]:
    """Return the lines of ``names``, each below the nearest run above it that is one of them."""
    found, above = [], list[bool]()  # whether each run above is one of them
    for line in lines:
        above[line.level :] = [line.name in names]
        if above[-1]:
            found.append(line._replace(level=sum(above) - 1))
    return found


def strokes(levels: Sequence[int]) -> list[str]:
    """Return the strokes before each line of a narrow drawing, two characters per level."""
    found = []
    for place, level in enumerate(levels):
        later = levels[place + 1 :]
        open_at = [_continues(later, depth) for depth in range(1, level + 1)]
        parts = ["│ " if open_ else "  " for open_ in open_at[:-1]]
        found.append("".join([*parts, *(["├ " if open_at[-1] else "└ "] if level else [])]))
    return found


def _continues(later: Sequence[int], depth: int) -> bool:
    """Return whether another line of this depth follows below the same run."""
    return next((level for level in later if level <= depth), 0) == depth
