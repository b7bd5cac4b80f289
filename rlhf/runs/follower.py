"""A run as a process sees it that shares the work and leaves the writing to another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.config import Settings
from rlhf.hardware import ranks
from rlhf.runs.directory import partial
from rlhf.runs.parents import find_parents
from rlhf.runs.run import Run


class Follower(Run):
    """The run that the first process writes: read here, and written by nobody but that one."""

    @classmethod
    def of(cls, directory: Path, settings: Settings, overrides: Sequence[str] = ()) -> "Follower":
        """What the first process has started; its run.json is known once the processes have met (``meet``)."""
        return cls(directory, partial(directory), {"stage": settings.stage.name}, find_parents(settings, overrides))

    def write(self) -> None:
        pass

    def record_data(self, kind: str, split: str, dataset: Any) -> None:
        pass

    def record_omission(self, kind: str, split: str, rows: int, reason: str, told: str | None = None) -> None:
        pass

    def record_output(self, path: Path) -> None:
        pass

    def record_tokenizer(self, tokenizer: Any) -> None:
        pass

    def record_diagnoses(self, records: Sequence[dict[str, Any]]) -> None:
        pass

    def record_member(self, folder: Path, metrics: dict[str, float]) -> None:
        pass

    def log(self, metrics: dict[str, float], step: int) -> None:
        pass

    def rewind(self, step: int, written: Mapping[str, int] | None = None) -> None:
        pass

    def stop(self, status: str, reason: str) -> None:
        pass

    def finish(self, metrics: dict[str, float]) -> None:
        """Wait until the first process has moved the run into its place."""
        ranks.wait()
        ranks.wait()
        self.work = self.directory


def begin(directory: Path, settings: Settings, overrides: Sequence[str] = ()) -> Run:
    """The run of this process: the first one claims the directory, the others follow it."""
    kind = Run.start if ranks.is_main() else Follower.of
    return kind(directory, settings, overrides)
