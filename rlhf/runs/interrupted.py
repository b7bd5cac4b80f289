"""Interrupted runs: whether a run may start in a directory, and whether it continues an interrupted one."""

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

REWARD_FILES = tuple(f"files.{role}" for role in ("rewards.", "shadows.", "gold"))  # keys of a run's content


def check_start(directory: Path, settings: Settings, content: Mapping[str, Any], overrides: Sequence[str] = ()) -> bool:
    """Return whether a run in ``directory`` continues an interrupted one.

    Raises:
        RunError: the directory has a finished run (``overwrite=true`` replaces it) or files that no run wrote, or an
            interrupted run, and neither ``resume=true`` nor ``overwrite=true`` is set, or its settings differ.
    """
    resumed = saved(partial(directory)) is not None and (settings.resume or not settings.overwrite)
    if resumed:
        _check_interrupted(directory, settings, content, overrides)
    elif (name := foreign(directory)) is not None:
        raise RunError(
            f"{directory} contains {name}, which no run wrote: move it away, or set name=<another> or checkpoints="
        )
    finished = read_manifest(directory)
    # A resumed run replaces the run that it was started to replace.
    replaces = settings.overwrite or settings.stage.repeats
    if finished is not None and not resumed and not replaces:
        raise RunError(
            f"{directory} has a finished run of stage={finished['stage']}: "
            "overwrite=true replaces it, name=<another> keeps it"
        )
    return resumed


def _check_interrupted(
    directory: Path, settings: Settings, content: Mapping[str, Any], overrides: Sequence[str]
) -> None:
    """Refuse to continue a run with other settings, and to restart an interrupted run without ``overwrite=true``."""
    work = partial(directory)
    with claim(work, directory):  # another process may be writing the run
        manifest = read_manifest(work)
    reason = "it has no run.json" if manifest is None else _change(manifest, content)
    if settings.resume and reason:
        raise RunError(f"{directory} cannot be resumed, {reason}: overwrite=true instead of resume=true starts again")
    if not settings.resume:
        other = f" with other settings ({reason})" if reason else ""
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
    return manifest is not None and saved(work) is not None and _change(manifest, content) is None


def _change(manifest: Mapping[str, Any], content: Mapping[str, Any]) -> str | None:
    """Return the first difference of ``content`` from a run's; the files of rewards may differ after one has failed."""
    old = manifest["content"]
    if str(manifest.get("reason")).startswith("RewardError"):
        old = old | {key: value for key, value in content.items() if key.startswith(REWARD_FILES)}
    return difference(old, content)


def settle(directory: Path) -> None:
    """Move a finished run that was killed before its move to its directory.

    Raises:
        RunError: another process is moving it, or another file blocks it.
    """
    work = partial(directory)
    with claim(work, directory):
        put_in_place(work, directory)


def put_in_place(work: Path, directory: Path) -> None:
    """Delete the checkpoints of a finished run and move it to its directory."""
    shutil.rmtree(work / SCRATCH, ignore_errors=True)
    move(work, directory)
