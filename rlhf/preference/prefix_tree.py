"""Rows of tokens as a tree of segments, so that what several rows begin with is computed once.

Two responses to one prompt differ from where they differ; before, a causal model computes the same twice. The rows of a
batch are laid out as segments, each of which follows on another one or begins a row:

    rows        a b c d e       segments   a b c         (the parent of both below)
                a b c f                    d e
                g h                        f
                                           g h

A row is a path from the top down. Whose prompt is whose is never declared and so never wrong: it is read from the ids
themselves, which also finds several pairs on one prompt, responses that begin alike, equal rows, and what all the
prompts of a batch begin with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy

# Fewer tokens than this are not worth a segment of their own: computing them again costs less than attending in parts.
LEAST = 8


@dataclass(frozen=True)
class Segment:
    """Tokens ``begin`` to ``end`` of ``row``, and of every other row that passes through it."""

    row: int
    begin: int
    end: int
    parent: int | None  # the number of the segment that it follows on; none for one that begins a row

    def __len__(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class Tree:
    """``paths[i]`` are the numbers of the segments that row i is made of, in order. A parent precedes its children."""

    segments: list[Segment]
    paths: list[tuple[int, ...]]

    def __len__(self) -> int:
        """How many tokens are computed."""
        return sum(map(len, self.segments))


def common(one: numpy.ndarray, other: numpy.ndarray) -> int:
    """How many tokens two rows have in common before they differ or one ends."""
    shorter = min(len(one), len(other))
    differ = numpy.flatnonzero(one[:shorter] != other[:shorter])
    return int(differ[0]) if len(differ) else shorter


def tree(rows: Sequence[numpy.ndarray], least: int = LEAST) -> Tree:
    """The tree of ``rows``, each a vector of ids; what they have in common is shared where it is ``least`` or more."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].tolist())
    # Equal rows lie side by side, and are one from here on.
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
    """Sorted rows that all differ, ``alike[n]`` the tokens that row n has in common with the one before it."""

    def __init__(self, rows: list[numpy.ndarray], names: list[int], alike: list[int], least: int):
        self.rows, self.names, self.alike, self.least = rows, names, alike, least
        self.segments: list[Segment] = []
        self.paths: list[tuple[int, ...]] = [()] * len(rows)

    def grow(self, low: int, high: int, begin: int, path: tuple[int, ...]) -> None:
        """Segments of rows ``low`` to ``high``, whose tokens up to ``begin`` are those of ``path``."""
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
