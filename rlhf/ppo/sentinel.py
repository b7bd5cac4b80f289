"""The sentinel: watches the metrics of every update and raises a diagnosis once per failure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rlhf.config import SentinelSettings
from rlhf.errors import TrainingError
from rlhf.ppo.diagnoses import RULES, History

STOPPED = "stopped"


class Diagnosis(NamedTuple):
    """A failure: one sentence, the medians of the last window, and the action taken.

    ``back_to`` is the update that the run was rolled back to, if it was.
    """

    name: str
    update: int
    text: str
    medians: dict[str, float]
    action: str = "warned"
    back_to: int | None = None

    def record(self) -> dict[str, Any]:
        """Return the diagnosis as a line of sentinel.jsonl."""
        return {"step": self.update} | {key: value for key, value in self._asdict().items() if key != "update"}

    def __str__(self) -> str:
        return f"update {self.update}: {self.text}"


class BrokenError(TrainingError):
    """An invariant of training is violated, and the trainer cannot continue from here."""

    def __init__(self, name: str, text: str):
        super().__init__(text)
        self.name = name


class Sentinel:
    """Raises each diagnosis once, and again only after it was inactive for a whole window.

    Decisions depend only on the metrics: ranks with the same metrics decide the same.
    """

    def __init__(self, limits: SentinelSettings):
        self.limits = limits
        self.history = History(limits.window)
        self.active: dict[str, int] = {}  # diagnosis -> updates since it last held
        self.raised: list[Diagnosis] = []
        self.rollbacks = 0

    @property
    def healthy(self) -> bool:
        """Whether no diagnosis is active now or was in the last window."""
        return not self.active

    @property
    def rate_factor(self) -> float:
        """The factor on the learning rates after the rollbacks so far."""
        return self.limits.rollback_factor**self.rollbacks

    @property
    def stopped(self) -> Diagnosis | None:
        """The diagnosis that ended the run, if one did."""
        return next((diagnosis for diagnosis in self.raised if diagnosis.action == STOPPED), None)

    def observe(self, metrics: Mapping[str, float], update: int) -> list[Diagnosis]:
        """Add the metrics of ``update`` and return the diagnoses that became active."""
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
        """Return a diagnosis of a failure that the trainer detected."""
        self.active[error.name] = 0
        return Diagnosis(error.name, update, str(error), self.history.latest())

    def roll_back(self, state: Mapping[str, Any]) -> None:
        """Restore the history of ``state``, keep the diagnoses raised since, and count the rollback."""
        raised, rollbacks = self.raised, self.rollbacks
        self.load_state_dict(state)
        self.raised, self.rollbacks = raised, rollbacks + 1

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {
            "seen": self.history.seen,
            "active": self.active,
            "raised": [list(diagnosis) for diagnosis in self.raised],
            "rollbacks": self.rollbacks,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that ``state_dict`` returned."""
        self.history.seen = {name: list(values) for name, values in state["seen"].items()}
        self.active = dict(state["active"])
        self.raised = [Diagnosis(*fields) for fields in state["raised"]]
        self.rollbacks = state["rollbacks"]
