"""The memory of a stage on one device, by role and by phase."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Role(NamedTuple):
    """A model and its training state. ``weights``, ``gradients`` and ``optimizer`` are bytes on one device."""

    name: str
    parameters: int
    trainable: int
    dtype: str
    weights: int
    gradients: int = 0
    optimizer: int = 0


class Phase(NamedTuple):
    """The memory of a part of a stage in addition to weights, in bytes on one device.

    ``gradients`` and ``optimizer`` name the roles whose gradients and optimizer states are allocated, ``holds`` those
    whose weights are; None means all roles.
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
        """The bytes of temporary tensors."""
        return self.activations + self.vocabulary + self.cache + self.other


@dataclass(frozen=True)
class Ledger:
    """The roles and consecutive phases of a stage; its peak is that of the most expensive phase.

    ``beside``: bytes that a CPU process holds in every phase in addition to models.
    """

    roles: list[Role]
    phases: list[Phase]
    notes: list[str] = field(default_factory=list)
    beside: int = 0

    def weights(self, phase: Phase) -> int:
        """Return the bytes of weights on one device during ``phase``."""
        return sum(role.weights for role in self.roles if phase.holds is None or role.name in phase.holds)

    def total(self, phase: Phase) -> int:
        """Return the peak bytes on one device during ``phase``."""
        gradients = sum(role.gradients for role in self.roles if role.name in phase.gradients)
        optimizer = sum(role.optimizer for role in self.roles if role.name in phase.optimizer)
        return self.weights(phase) + gradients + optimizer + phase.works + self.beside

    @property
    def highest(self) -> Phase:
        """The most expensive phase."""
        return max(self.phases, key=self.total)

    @property
    def peak(self) -> int:
        """The bytes of the most expensive phase."""
        return self.total(self.highest)

    def record(self) -> dict[str, Any]:
        """Return roles, phases and the peak as JSON-serializable numbers."""
        phases = {phase.name: phase._asdict() | {"total": self.total(phase)} for phase in self.phases}
        return {
            "peak": self.peak,
            "beside": self.beside,
            "roles": [role._asdict() for role in self.roles],
            "phases": phases,
        }
