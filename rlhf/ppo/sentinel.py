"""The sentinel: watches the metrics of every update and names a failure, once, while something can be done about it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rlhf.config import SentinelSettings
from rlhf.errors import TrainingError
from rlhf.ppo.diagnoses import RULES, History

STOPPED = "stopped"


class Diagnosis(NamedTuple):
    """``text`` is one sentence, ``medians`` are those of the last window, ``action`` is what was done about it.

    ``back_to`` is the update that the run went back to, where it did.
    """

    name: str
    update: int
    text: str
    medians: dict[str, float]
    action: str = "warned"
    back_to: int | None = None

    def record(self) -> dict[str, Any]:
        """As a line of sentinel.jsonl."""
        return {"step": self.update} | {key: value for key, value in self._asdict().items() if key != "update"}

    def __str__(self) -> str:
        return f"update {self.update}: {self.text}"


class BrokenError(TrainingError):
    """What must hold at every update does not: the trainer has met it itself, and cannot go on from here."""

    def __init__(self, name: str, text: str):
        super().__init__(text)
        self.name = name


class Sentinel:
    """Raises each diagnosis once; it is raised again only after it has not held for a whole window.

    What it decides is a function of the metrics alone: ranks that see the same metrics decide alike.
    """

    def __init__(self, limits: SentinelSettings):
        self.limits = limits
        self.history = History(limits.window)
        self.active: dict[str, int] = {}  # diagnosis -> updates for which it has not held any more
        self.raised: list[Diagnosis] = []
        self.rollbacks = 0

    @property
    def healthy(self) -> bool:
        """Whether no diagnosis holds, or has held in the last window."""
        return not self.active

    @property
    def rate_factor(self) -> float:
        """What the learning rates are multiplied by after the rollbacks so far."""
        return self.limits.rollback_factor**self.rollbacks

    @property
    def stopped(self) -> Diagnosis | None:
        """The diagnosis that ended the run, if one did."""
        return next((diagnosis for diagnosis in self.raised if diagnosis.action == STOPPED), None)

    def observe(self, metrics: Mapping[str, float], update: int) -> list[Diagnosis]:
        """What the metrics of ``update`` have made true that was not before."""
        self.history.add(metrics)
        new = []
        for rule in RULES:
            name, text = rule.__name__, rule(self.history, self.limits)
            if text is not None:
                if name not in self.active:
                    new.append(Diagnosis(name, update, text, self.history.latest()))
                self.active[name] = 0
            elif name in self.active:
                self.active[name] += 1
                if self.active[name] >= self.limits.window:
                    del self.active[name]
        return new

    def broken(self, error: BrokenError, update: int) -> Diagnosis:
        """A failure that the trainer has met itself, as a diagnosis."""
        self.active[error.name] = 0
        return Diagnosis(error.name, update, str(error), self.history.latest())

    def roll_back(self, state: Mapping[str, Any]) -> None:
        """Forget what was seen since ``state``, but not what was raised, and count."""
        raised, rollbacks = self.raised, self.rollbacks
        self.load_state_dict(state)
        self.raised, self.rollbacks = raised, rollbacks + 1

    def state_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        return {
            "seen": self.history.seen,
            "active": self.active,
            "raised": [list(diagnosis) for diagnosis in self.raised],
            "rollbacks": self.rollbacks,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.history.seen = {name: list(values) for name, values in state["seen"].items()}
        self.active = dict(state["active"])
        self.raised = [Diagnosis(*fields) for fields in state["raised"]]
        self.rollbacks = state["rollbacks"]
