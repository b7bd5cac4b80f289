"""What people said, on disk before the next pair shows: a log that is only ever appended to."""

import json
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from rlhf.data.rows import unit_hash
from rlhf.errors import DataError
from rlhf.labeling.pairs import Pair

VERDICTS = ("first", "second", "tie", "skip")
UNDO = "undo"
VALUES = {"first": 1.0, "tie": 0.5, "second": 0.0}


class Answers:
    """Verdicts by pair and annotator. Safe for several threads, for a kill at any time, and for a second open page."""

    def __init__(self, path: Path, pairs: Sequence[Pair], annotators: int, seed: int):
        self.pairs = {pair.id: pair for pair in pairs}
        self.annotators, self.seed, self.path = annotators, seed, path
        self._lock = threading.Lock()
        self._given: dict[str, dict[str, str]] = defaultdict(dict)  # annotator -> pair -> verdict, in order
        path.parent.mkdir(parents=True, exist_ok=True)
        self._replay()

    def _replay(self) -> None:
        """Read what there is; the end of a line that a kill cut short is taken away.

        Raises:
            DataError: a line is damaged.
        """
        if not self.path.exists():
            return
        whole = self.path.read_bytes()
        kept = whole[: whole.rfind(b"\n") + 1]
        if kept != whole:
            self.path.write_bytes(kept)
        for number, line in enumerate(kept.split(b"\n")[:-1], 1):
            try:
                entry = json.loads(line)
                said = [entry[key] for key in ("annotator", "pair", "verdict")]
                if not all(isinstance(one, str) for one in said) or said[-1] not in (*VERDICTS, UNDO):
                    raise ValueError(line)
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{self.path}:{number} is no answer: correct the line or delete it, and give resume=true"
                ) from error
            self._take(*said)

    def _take(self, annotator: str, pair: str, verdict: str) -> None:
        if verdict == UNDO:
            self._given[annotator].pop(pair, None)
        elif pair in self.pairs:  # of other samples than now nothing is left to answer
            self._given[annotator][pair] = verdict

    def _write(self, annotator: str, pair: str, verdict: str) -> None:
        entry = {"annotator": annotator, "pair": pair, "verdict": verdict}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(annotator, pair, verdict)

    def swapped(self, annotator: str, pair: str) -> bool:
        """Whether the second response stands on the left: drawn for each annotator, and the same when asked again."""
        return unit_hash(self.seed, f"{annotator} {pair}") < 0.5

    def next(self, annotator: str) -> Pair | None:
        """The first pair that this annotator has not answered and that still wants an answer."""
        with self._lock:
            counts = self._counts()
            mine = self._given.get(annotator, {})
            open_pairs = (key for key in self.pairs if key not in mine and counts[key] < self.annotators)
            key = next(open_pairs, None)
            return None if key is None else self.pairs[key]

    def add(self, annotator: str, pair: str, verdict: str) -> bool:
        """Write an answer; False where this annotator has answered the pair already, on another page perhaps."""
        with self._lock:
            if pair not in self.pairs or pair in self._given.get(annotator, {}):
                return False
            self._write(annotator, pair, verdict)
            return True

    def undo(self, annotator: str) -> bool:
        """Take this annotator's last answer back; False where there is none."""
        with self._lock:
            mine = self._given.get(annotator, {})
            if not mine:
                return False
            self._write(annotator, next(reversed(mine)), UNDO)
            return True

    def progress(self, annotator: str) -> tuple[int, int]:
        """Answers of this annotator, and how many there will be if nobody else answers."""
        with self._lock:
            mine, counts = self._given.get(annotator, {}), self._counts()
            left = sum(counts[key] < self.annotators and key not in mine for key in self.pairs)
            return len(mine), len(mine) + left

    @property
    def complete(self) -> bool:
        with self._lock:
            counts = self._counts()
            return all(counts[key] >= self.annotators for key in self.pairs)

    def _counts(self) -> Counter:
        return Counter(pair for given in self._given.values() for pair in given)

    def by_pair(self) -> dict[str, dict[str, str]]:
        """Pair -> annotator -> verdict."""
        with self._lock:
            found: dict[str, dict[str, str]] = {key: {} for key in self.pairs}
            for annotator, given in self._given.items():
                for pair, verdict in given.items():
                    found[pair][annotator] = verdict
            return found


def vote(verdicts: Sequence[str]) -> float | None:
    """The share of votes for the first response, ties half; None where everybody skipped."""
    values = [VALUES[verdict] for verdict in verdicts if verdict in VALUES]
    return sum(values) / len(values) if values else None


def agreement(answers: dict[str, dict[str, str]]) -> dict[str, float]:
    """How often two annotators say the same of one pair, and Cohen's kappa of it, over all pairs of annotators.

        κ = (p_o - p_e) / (1 - p_e)

    with p_e the agreement of two annotators who answer at random, each with their own frequencies (Cohen 1960),
    averaged over pairs of annotators by the pairs that both have answered. Skipped pairs do not count. Empty where no
    pair has two answers.
    """
    by_two: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for given in answers.values():
        said = {who: verdict for who, verdict in given.items() if verdict in VALUES}
        for one, other in combinations(sorted(said), 2):
            by_two[one, other].append((said[one], said[other]))
    total = sum(map(len, by_two.values()))
    if not total:
        return {}
    observed = sum(a == b for both in by_two.values() for a, b in both) / total
    kappa = sum(len(both) * _kappa(both) for both in by_two.values()) / total
    return {"agreement": observed, "kappa": kappa}


def _kappa(both: Sequence[tuple[str, str]]) -> float:
    size = len(both)
    observed = sum(a == b for a, b in both) / size
    left, right = Counter(a for a, _ in both), Counter(b for _, b in both)
    expected = sum(left[verdict] * right[verdict] for verdict in VALUES) / size**2
    return 1.0 if expected == 1 else (observed - expected) / (1 - expected)
