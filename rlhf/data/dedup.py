"""Detect repeated texts with at most 32 bytes per text: a Python set of ten million texts would not fit in memory."""

import hashlib
from array import array


def digest(text: str) -> int:
    """Return a number in [1, 2**64) for a text; ten million texts collide with a probability of 3e-6."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") or 1


class Seen:
    """A set of digests: open addressing with linear probing, at most half full; a slot with 0 is free."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 1024))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, text: str) -> bool:
        """Add ``text``, and return whether it is new."""
        if not self._place(self._slots, digest(text)):
            return False
        self._count += 1
        if 2 * self._count > len(self._slots):
            larger = array("Q", bytes(16 * len(self._slots)))
            for value in self._slots:
                if value:
                    self._place(larger, value)
            self._slots = larger
        return True

    @staticmethod
    def _place(slots: array, value: int) -> bool:
        mask = len(slots) - 1  # the number of slots is a power of two
        i = value & mask
        while slots[i] not in (0, value):
            i = (i + 1) & mask
        new = slots[i] == 0
        slots[i] = value
        return new
