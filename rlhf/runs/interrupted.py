"""What an interrupted run left beside its place, and whether a run may be started there."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.config import Settings
from rlhf.errors import RunError
from rlhf.runs.commands import command
from rlhf.runs.directory import SCRATCH, claim, foreign, move, partial, saved
from rlhf.runs.identity import difference
from rlhf.storage.manifest import read_manifest


def check_start(directory: Path, settings: Settings, content: Mapping[str, Any], overrides: Sequence[str] = ()) -> bool:
    """Return whether the run that may be started in ``directory`` continues an interrupted one.

    Raises:
        RunError: the directory holds a finished run (``overwrite=true`` replaces it) or files that no run wrote, an
            interrupted run is there and neither ``resume=true`` nor ``overwrite=true`` was given, or its settings were
            others.
    """
    resumed = saved(partial(directory)) is not None and (settings.resume or not settings.overwrite)
    if resumed:
        _check_interrupted(directory, settings, content, overrides)
    elif (name := foreign(directory)) is not None:
        raise RunError(
            f"{directory} holds {name}, which no run wrote: move it away, or give name=<another> or checkpoints="
        )
    finished = read_manifest(directory)
    # What an interrupted run was to replace, it replaces when it is resumed.
    replaces = settings.overwrite or settings.stage.repeats
    if finished is not None and not resumed and not replaces:
        raise RunError(
            f"{directory} holds a finished run of stage={finished['stage']}: "
            "overwrite=true replaces it, name=<another> keeps it"
        )
    return resumed


def _check_interrupted(
    directory: Path, settings: Settings, content: Mapping[str, Any], overrides: Sequence[str]
) -> None:
    """Refuse to continue a run of other settings, and to start again where a run was interrupted."""
    work = partial(directory)
    with claim(work, directory):  # it may be no interrupted run, but one that another process is writing
        manifest = read_manifest(work)
    reason = "it has no run.json" if manifest is None else difference(manifest["content"], content)
    if settings.resume and reason:
        raise RunError(f"{directory} cannot be resumed, {reason}: overwrite=true in place of resume=true starts again")
    if not settings.resume:
        other = f" of other settings ({reason})" if reason else ""
        ways = "name=<another> keeps it" if reason else f"resume=true continues it ({resuming(settings, overrides)})"
        raise RunError(
            f"{directory}: an interrupted run{other} with {saved(work)} is here: {ways}, overwrite=true starts again"
        )


def resuming(settings: Settings, overrides: Sequence[str]) -> str:
    """Return the command that continues an interrupted run."""
    others = [item for item in overrides if item.partition("=")[0] not in ("resume", "overwrite")]
    return command(settings.stage.name, [*others, "resume=true"])


def resumable(directory: Path, content: Mapping[str, Any]) -> bool:
    """Return whether ``resume=true`` continues an interrupted run of this content."""
    work = partial(directory)
    manifest = read_manifest(work)
    return manifest is not None and saved(work) is not None and difference(manifest["content"], content) is None


def settle(directory: Path) -> None:
    """Move a run into its place that was killed between its end and that.

    Raises:
        RunError: another process is just doing so, or something is in its way.
    """
    work = partial(directory)
    with claim(work, directory):
        put_in_place(work, directory)


def put_in_place(work: Path, directory: Path) -> None:
    """The checkpoints go when run.json says that nothing needs them any more, so that a kill repeats no training."""
    shutil.rmtree(work / SCRATCH, ignore_errors=True)
    move(work, directory)
