"""Word-level differences between two texts."""

import re

from rapidfuzz.distance import Indel

MOST_WORDS = 20_000
"""Above it, only a common beginning and end count as equal, because the time of a full diff is quadratic."""


def pieces(text: str, against: str) -> list[str]:
    """Return ``text`` cut into pieces that alternate between equal to and different from ``against``, equal first.

    Joined they are ``text``. Words are compared; blanks differ if the words on both sides differ.
    """
    parts = re.findall(r"\s+|\S+", text)
    places = [i for i, part in enumerate(parts) if not part.isspace()]
    other = [False] * len(parts)
    for i in places:
        other[i] = True
    for start, end in same([parts[i] for i in places], against.split()):
        for place in places[start:end]:
            other[place] = False
    for i in range(1, len(parts) - 1):
        if parts[i].isspace():
            other[i] = other[i - 1] and other[i + 1]
    found = [""]
    for part, differs in zip(parts, other, strict=True):
        if (len(found) - 1) % 2 == differs:
            found[-1] += part
        else:
            found.append(part)
    return found


def same(ours: list[str], theirs: list[str]) -> list[tuple[int, int]]:
    """Return the ranges of ``ours`` that are also in ``theirs``: a longest common subsequence."""
    if max(len(ours), len(theirs)) > MOST_WORDS:
        most = min(len(ours), len(theirs))
        head = next((i for i in range(most) if ours[i] != theirs[i]), most)
        tail = next((i for i in range(most - head) if ours[-1 - i] != theirs[-1 - i]), most - head)
        return [(0, head), (len(ours) - tail, len(ours))]
    return [(block.a, block.a + block.size) for block in Indel.opcodes(ours, theirs).as_matching_blocks()]
