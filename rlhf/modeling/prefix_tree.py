"""Rows of tokens as a tree of segments, so that common prefixes are computed once.

A causal model computes the same hidden states for two rows up to their first different token. The rows of a batch are
laid out as segments, each of which continues another segment or starts a row:

    rows        a b c d e       segments   a b c         (the parent of both below)
                a b c f                    d e
                g h                        f
                                           g h

A row is a path from the root. Prefixes are found from the token ids themselves, without declaring prompts, which also
covers several pairs with one prompt, responses with a common beginning, equal rows, and prefixes of all prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy

# Shorter prefixes are not shared: computing them again costs less than attention in parts.
LEAST = 8


@dataclass(frozen=True)
class Segment:
    """Tokens ``begin`` to ``end`` of ``row``, and of every other row whose path contains the segment."""

    row: int
    begin: int
    end: int
    parent: int | None  # the number of the segment that it continues; None if it starts a row

    def __len__(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class Tree:
    """Segments, parents before children, and ``paths``: for each row, the numbers of its segments in order."""

    segments: list[Segment]
    paths: list[tuple[int, ...]]

    def __len__(self) -> int:
        """Return the number of computed tokens."""
        return sum(map(len, self.segments))


def common(one: numpy.ndarray, other: numpy.ndarray) -> int:
    """Return the length of the common prefix of two rows."""
    shorter = min(len(one), len(other))
    differ = numpy.flatnonzero(one[:shorter] != other[:shorter])
    return int(differ[0]) if len(differ) else shorter


def tree(rows: Sequence[numpy.ndarray], least: int = LEAST) -> Tree:
    """Return the tree of ``rows``, each a vector of ids, that shares prefixes of at least ``least`` tokens."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].tolist())
    # Equal rows are neighbors in this order and are treated as one row.
    alike = [0, *(common(rows[a], rows[b]) for a, b in pairwise(order))]
    first = [n == 0 or alike[n] < max(len(rows[order[n - 1]]), len(rows[row])) for n, row in enumerate(order)]
    places = [n for n, new in enumerate(first) if new]
    grown = _Growing([rows[order[n]] for n in places], [order[n] for n in places], [alike[n] for n in places], least)
    if places:
        grown.grow(0, len(places), 0, ())
    paths: list[tuple[int, ...]] = [()] * len(rows)
    number = -1
    for n, row in enumerate(order):
        number += first[n]
        paths[row] = grown.paths[number]
    return Tree(grown.segments, paths)


class _Growing:
    """Sorted distinct rows; ``alike[n]`` is the length of the common prefix of row n and the previous one."""

    def __init__(self, rows: list[numpy.ndarray], names: list[int], alike: list[int], least: int):
        self.rows, self.names, self.alike, self.least = rows, names, alike, least
        self.segments: list[Segment] = []
        self.paths: list[tuple[int, ...]] = [()] * len(rows)

    def grow(self, low: int, high: int, begin: int, path: tuple[int, ...]) -> None:
        """Add the segments of rows ``low`` to ``high``, whose tokens up to ``begin`` are in ``path``."""
        if high - low == 1:
            self.paths[low] = self._add(low, begin, len(self.rows[low]), path)
            return
        shared = min(self.alike[low + 1 : high])
        if shared - begin >= self.least:
            path, begin = self._add(low, begin, shared, path), shared
        cuts = [low, *(n for n in range(low + 1, high) if self.alike[n] == shared), high]
        for start, end in pairwise(cuts):
            self.grow(start, end, begin, path)

    def _add(self, row: int, begin: int, end: int, path: tuple[int, ...]) -> tuple[int, ...]:
        if begin == end:
            return path
        self.segments.append(Segment(self.names[row], begin, end, path[-1] if path else None))
        return (*path, len(self.segments) - 1)
