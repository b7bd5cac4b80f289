"""Questions to language models that judge, and their cost: counted and bounded over all processes of a run."""

import threading
from collections.abc import Mapping

import torch

from rlhf.config import Judge
from rlhf.console import plural
from rlhf.errors import TrainingError
from rlhf.rewards.normalization import OverRanks, alone

COUNTS = ("asked", "cached", "refused", "malformed", "unusable", "prompt_tokens", "response_tokens")


class Spending:
    """Counts of a run's questions. Safe for threads; part of a checkpoint, so that limits hold after a resume, too.

    Each rank counts its own questions; ``settle`` adds those of all ranks. In between, the other ranks are assumed to
    have asked as many. Tokens are known only after a reply, so their limit is exceeded by at most ``judge.workers``
    replies of each rank.
    """

    def __init__(self, judge: Judge, ranks: int = 1):
        self.judge, self.ranks = judge, ranks
        self.settled = dict.fromkeys(COUNTS, 0.0)
        self.own = dict.fromkeys(COUNTS, 0)
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> float:
        return self.settled[name] + self.ranks * self.own[name]

    def add(self, **more: int) -> None:
        """Add to the counts of this rank."""
        with self._lock:
            for name, value in more.items():
                self.own[name] += value

    def ask(self, questions: int = 1) -> None:
        """Count ``questions`` that are asked next.

        Raises:
            TrainingError: a limit is reached; nothing is counted.
        """
        judge = self.judge
        with self._lock:
            tokens = self["prompt_tokens"] + self["response_tokens"]
            for name, limit, spent, unit in (
                ("budget", judge.budget, self.dollars, "dollars"),
                ("budget_calls", judge.budget_calls, self["asked"] + questions - 1, "calls"),
                ("budget_tokens", judge.budget_tokens, tokens, "tokens"),
            ):
                if limit is not None and spent >= limit:
                    after = plural(int(self["asked"]), "question")
                    raise TrainingError(
                        f"judge.{name}={limit:.10g} {unit} are spent after {after}: raise it and run again, "
                        "with resume=true after a checkpoint; replies so far are kept and are not paid for again"
                    )
            self.own["asked"] += questions

    @property
    def dollars(self) -> float:
        """The cost at the configured prices, without replies from the cache."""
        prices = {"prompt_tokens": self.judge.price_prompt, "response_tokens": self.judge.price_response}
        return sum(self[name] * price for name, price in prices.items()) / 1e6

    def settle(self, over_ranks: OverRanks = alone) -> None:
        """Add the counts of all ranks since the last call. Every rank must call it."""
        with self._lock:
            total = over_ranks(torch.tensor([float(self.own[name]) for name in COUNTS], dtype=torch.float64))
            for name, value in zip(COUNTS, total.tolist(), strict=True):
                self.settled[name] += value
                self.own[name] = 0

    def report(self) -> dict[str, float]:
        """Return the counts and the dollars as metrics."""
        return {f"judge/{name}": float(self[name]) for name in COUNTS} | {"judge/dollars": self.dollars}

    def state_dict(self) -> dict[str, float]:
        """Return the settled counts as JSON values."""
        return dict(self.settled)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore counts; a rollback does not undo what was spent after its checkpoint."""
        self.settled = {name: max(self.settled[name], state.get(name, 0.0)) for name in COUNTS}
