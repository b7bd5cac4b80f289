"""The single responses that stage=kto reads from a file, counted by their origin."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rlhf.data.rows import Row

ORIGIN = "origin"  # column of a single response: thumbs, ratings, pairs or rankings
SIDES = ("desirable", "undesirable")
VALUES = 1000  # different ratings that are counted; more have no division in the data sheet


class Singles:
    """Counts of responses with a label by origin, and of each rating: the mean of all shows which are high."""

    def __init__(self) -> None:
        self.labels: Counter[tuple[str, str]] = Counter()
        self.ratings: Counter[float] = Counter()

    def count(self, rows: Sequence[Row]) -> None:
        """Count single responses with a label or a rating."""
        for row in rows:
            if "label" in row:
                self.labels[row[ORIGIN], SIDES[row["label"] <= 0]] += 1
            elif len(self.ratings) <= VALUES:
                self.ratings[float(row["rating"])] += 1

    def add(self, later: "Singles") -> None:
        """Add the counts of later rows."""
        self.labels.update(later.labels)
        if len(self.ratings) <= VALUES:
            self.ratings.update(later.ratings)

    def told(self) -> dict[str, dict[str, Any]]:
        """Return origin -> number of desirable and undesirable responses; for ratings with their mean, if counted."""
        found: dict[str, dict[str, Any]] = {}
        for (origin, side), count in self.labels.items():
            found.setdefault(origin, dict.fromkeys(SIDES, 0))[side] = count
        if 0 < len(self.ratings) <= VALUES:
            mean = sum(value * count for value, count in self.ratings.items()) / self.ratings.total()
            high = sum(count for value, count in self.ratings.items() if value >= mean)
            found["ratings"] = {"desirable": high, "undesirable": self.ratings.total() - high, "from": mean}
        return found
