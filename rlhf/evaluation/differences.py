"""In which words a text differs from another one."""

import re
from difflib import SequenceMatcher

MOST_WORDS = 1000
"""Of longer texts only what they begin and end with alike is unmarked: the comparison is quadratic at worst."""


def pieces(text: str, against: str) -> list[str]:
    """``text`` cut into pieces that are alternately as in ``against`` and not: same, other, same, ...

    Joined they are ``text`` again. Words are compared; the blanks after a word go with it.
    """
    ours = words(text)
    other = [True] * len(ours)
    for start, end in same([word.strip() for word in ours], [word.strip() for word in words(against)]):
        other[start:end] = [False] * (end - start)
    found = [""]
    for word, differs in zip(ours, other, strict=True):
        if (len(found) - 1) % 2 == differs:
            found[-1] += word
        else:
            found.append(word)
    return found


def words(text: str) -> list[str]:
    """Words with the blanks after them; blanks at the beginning are a word of their own."""
    return re.findall(r"\S+\s*|^\s+", text)


def same(ours: list[str], theirs: list[str]) -> list[tuple[int, int]]:
    """Ranges of ``ours`` that ``theirs`` has too, in order."""
    if max(len(ours), len(theirs)) > MOST_WORDS:
        most = min(len(ours), len(theirs))
        head = next((i for i in range(most) if ours[i] != theirs[i]), most)
        tail = next((i for i in range(most - head) if ours[-1 - i] != theirs[-1 - i]), most - head)
        return [(0, head), (len(ours) - tail, len(ours))]
    blocks = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    return [(block.a, block.a + block.size) for block in blocks]
