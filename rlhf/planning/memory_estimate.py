"""Who holds what, and when: the memory of a stage on one device, by role and by phase."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Role(NamedTuple):
    """A model and what it needs to learn. ``weights``, ``gradients`` and ``optimizer`` are bytes of one device."""

    name: str
    parameters: int
    trainable: int
    dtype: str
    weights: int
    gradients: int = 0
    optimizer: int = 0


class Phase(NamedTuple):
    """What is there besides weights while something is done, in bytes of one device.

    ``gradients`` and ``optimizer`` name the roles whose are there; ``holds`` those whose weights are, all where None.
    """

    name: str
    activations: int = 0
    vocabulary: int = 0
    cache: int = 0
    other: int = 0
    gradients: tuple[str, ...] = ()
    optimizer: tuple[str, ...] = ()
    holds: tuple[str, ...] | None = None

    @property
    def works(self) -> int:
        return self.activations + self.vocabulary + self.cache + self.other


@dataclass(frozen=True)
class Ledger:
    """A stage is done in phases, one after the other; its peak is that of the most expensive one.

    ``beside`` bytes are there in all of them: what a process holds without a GPU besides models.
    """

    roles: list[Role]
    phases: list[Phase]
    notes: list[str] = field(default_factory=list)
    beside: int = 0

    def weights(self, phase: Phase) -> int:
        return sum(role.weights for role in self.roles if phase.holds is None or role.name in phase.holds)

    def total(self, phase: Phase) -> int:
        """Bytes on one device while ``phase`` is at its most."""
        gradients = sum(role.gradients for role in self.roles if role.name in phase.gradients)
        optimizer = sum(role.optimizer for role in self.roles if role.name in phase.optimizer)
        return self.weights(phase) + gradients + optimizer + phase.works + self.beside

    @property
    def highest(self) -> Phase:
        return max(self.phases, key=self.total)

    @property
    def peak(self) -> int:
        return self.total(self.highest)

    def record(self) -> dict[str, Any]:
        phases = {phase.name: phase._asdict() | {"total": self.total(phase)} for phase in self.phases}
        return {
            "peak": self.peak,
            "beside": self.beside,
            "roles": [role._asdict() for role in self.roles],
            "phases": phases,
        }
