"""The answers of annotators: an append-only log, written to disk before the next pair is shown."""

import json
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from rlhf.data.rows import unit_hash
from rlhf.errors import DataError
from rlhf.evaluation.statistics.kappa import kappa
from rlhf.labeling.pairs import Pair

VERDICTS = ("first", "second", "tie", "skip")
UNDO = "undo"
VALUES = {"first": 1.0, "tie": 0.5, "second": 0.0}


class Answers:
    """Verdicts by pair and annotator. Safe for threads, for a kill at any time, and for a page opened twice.

    Raises (on creation):
        DataError: a line of the log at ``path`` is corrupted.
    """

    def __init__(self, path: Path, pairs: Sequence[Pair], annotators: int, seed: int):
        self.pairs = {pair.id: pair for pair in pairs}
        self.annotators, self.seed, self.path = annotators, seed, path
        self._lock = threading.Lock()
        self._given: dict[str, dict[str, str]] = defaultdict(dict)  # annotator -> pair -> verdict, in order
        path.parent.mkdir(parents=True, exist_ok=True)
        self._replay()

    def _replay(self) -> None:
        """Read the log, and remove an unfinished last line."""
        if not self.path.exists():
            return
        whole = self.path.read_bytes()
        kept = whole[: whole.rfind(b"\n") + 1]
        if kept != whole:
            self.path.write_bytes(kept)
        for number, line in enumerate(kept.split(b"\n")[:-1], 1):
            try:
                entry = json.loads(line)
                values = [entry[key] for key in ("annotator", "pair", "verdict")]
                if not all(isinstance(value, str) for value in values) or values[-1] not in (*VERDICTS, UNDO):
                    raise ValueError(line)
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{self.path}:{number}: the line is corrupted: correct or delete it, and set resume=true"
                ) from error
            self._take(*values)

    def _take(self, annotator: str, pair: str, verdict: str) -> None:
        if verdict == UNDO:
            self._given[annotator].pop(pair, None)
        elif pair in self.pairs:  # ignores pairs of earlier samples
            self._given[annotator][pair] = verdict

    def _write(self, annotator: str, pair: str, verdict: str) -> None:
        entry = {"annotator": annotator, "pair": pair, "verdict": verdict}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(annotator, pair, verdict)

    def swapped(self, annotator: str, pair: str) -> bool:
        """Return whether the second response is shown on the left: random by annotator and pair, but reproducible."""
        return unit_hash(self.seed, f"{annotator} {pair}") < 0.5

    def next(self, annotator: str) -> Pair | None:
        """Return the first open pair that this annotator has not answered; None if no such pair is left."""
        with self._lock:
            counts = self._counts()
            mine = self._given.get(annotator, {})
            open_pairs = (key for key in self.pairs if key not in mine and counts[key] < self.annotators)
            key = next(open_pairs, None)
            return None if key is None else self.pairs[key]

    def add(self, annotator: str, pair: str, verdict: str) -> bool:
        """Write an answer; return False if this annotator has already answered the pair, as on another page."""
        with self._lock:
            if pair not in self.pairs or pair in self._given.get(annotator, {}):
                return False
            self._write(annotator, pair, verdict)
            return True

    def undo(self, annotator: str) -> bool:
        """Take back this annotator's last answer; return False if the annotator has no answer."""
        with self._lock:
            mine = self._given.get(annotator, {})
            if not mine:
                return False
            self._write(annotator, next(reversed(mine)), UNDO)
            return True

    def progress(self, annotator: str) -> tuple[int, int]:
        """Return the number of this annotator's answers, and of those plus the pairs still open to the annotator."""
        with self._lock:
            mine, counts = self._given.get(annotator, {}), self._counts()
            left = sum(counts[key] < self.annotators and key not in mine for key in self.pairs)
            return len(mine), len(mine) + left

    @property
    def complete(self) -> bool:
        """Whether each pair has an answer from the required number of annotators."""
        with self._lock:
            counts = self._counts()
            return all(counts[key] >= self.annotators for key in self.pairs)

    def _counts(self) -> Counter:
        return Counter(pair for given in self._given.values() for pair in given)

    def by_pair(self) -> dict[str, dict[str, str]]:
        """Return pair -> annotator -> verdict."""
        with self._lock:
            found: dict[str, dict[str, str]] = {key: {} for key in self.pairs}
            for annotator, given in self._given.items():
                for pair, verdict in given.items():
                    found[pair][annotator] = verdict
            return found


def vote(verdicts: Sequence[str]) -> float | None:
    """Return the share of votes for the first response, ties half; None without votes."""
    values = [VALUES[verdict] for verdict in verdicts if verdict in VALUES]
    return sum(values) / len(values) if values else None


def agreement(answers: dict[str, dict[str, str]]) -> dict[str, float]:
    """Return the share of pairs on which two annotators agree, and Cohen's kappa, over all pairs of annotators.

    Kappa is averaged over pairs of annotators, weighted by the pairs that both answered. Skipped pairs do not count.
    Empty if no pair has two answers.

    Args:
        answers: pair -> annotator -> verdict.
    """
    by_two: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for given in answers.values():
        votes = {annotator: verdict for annotator, verdict in given.items() if verdict in VALUES}
        for one, other in combinations(sorted(votes), 2):
            by_two[one, other].append((votes[one], votes[other]))
    total = sum(map(len, by_two.values()))
    if not total:
        return {}
    observed = sum(a == b for both in by_two.values() for a, b in both) / total
    mean = sum(len(both) * kappa(*zip(*both, strict=True)) for both in by_two.values()) / total
    return {"agreement": observed, "kappa": mean}
