"""stage=progression: run the missing and stale stages in order, the comparison last.

    python -m rlhf stage=progression
    python -m rlhf stage=progression "stage.overrides={dpo: ['stage.beta=0.3']}"
    python -m rlhf -m stage=progression seed=1,2,3

A stage is stale if its settings, its data or the weights of its parents differ from those in its run.json. The settings
of each stage are composed as its own command would compose them.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf.cli.compose import composed
from rlhf.config import PLANNED, PlanStage, ProgressionStage, Settings
from rlhf.console import console
from rlhf.errors import ConfigError, LineageError
from rlhf.runs.directory import partial, saved
from rlhf.runs.headlines import ending
from rlhf.runs.identity import Origin, difference
from rlhf.runs.interrupted import resumable
from rlhf.runs.run import Run
from rlhf.storage.manifest import read_manifest
from rlhf.storage.secrets import text


def run(settings: Settings, directory: Path, overrides: Sequence[str]) -> dict[str, float]:
    """Run the stages, each in the directory that its own command would use, and return the metrics of the last."""
    shared = common(overrides)
    if directory.name != "progression":  # a job of a sweep: its stages are in the directory of the job
        shared = [item for item in shared if not item.startswith("name=")]
        shared.append(f"name={os.path.relpath(directory, settings.checkpoints)}")
    commands = commands_of(settings, shared)
    # Compose all stages first: a mistake in the last one's settings is reported before training starts.
    settled = {name: composed(own) for name, own in commands.items()}
    metrics: dict[str, float] = {}
    started = time.monotonic()
    for name, own in commands.items():
        metrics = advance(settled[name], own, settings)
    if settled:
        place = _place(settled[name])
        last = ending(place, Run.open(place).manifest, "progression", time.monotonic() - started)
        console.print(last, markup=False, highlight=False, soft_wrap=True)
    return metrics


def _place(settings: Settings) -> Path:
    return Path(settings.checkpoints) / settings.name / settings.stage.name


def common(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that the commands of several stages share: all except the stage and its settings."""
    return [item for item in overrides if not item.lstrip("+~").startswith(("stage=", "stage."))]


def commands_of(settings: Settings, shared: Sequence[str]) -> dict[str, list[str]]:
    """Return the overrides of each stage of a progression or plan, as in its own command."""
    stage: Any = settings.stage  # ProgressionStage or PlanStage
    own = stage.overrides or {}
    return {name: [f"stage={name}", *shared, *own.get(name, [])] for name in stage.stages}


def plan(settings: Settings, overrides: Sequence[str]) -> bool:
    """Print the plan of stage=plan or of a stage with hardware.plan=true; return whether all stages fit."""
    from rlhf.stages.plan import run as show

    shared = [item for item in common(overrides) if not item.startswith("hardware.plan=")]
    if settings.stage.name == "plan":
        stage = settings.stage_as(PlanStage)
        if stage.stages is None:
            whole = composed(["stage=progression", *shared]).stage_as(ProgressionStage).stages
            stage = replace(stage, stages=[name for name in whole if name in PLANNED])
        commands = commands_of(replace(settings, stage=stage), shared).values()
        return show(stage, [composed(one) for one in commands])
    if settings.stage.name not in PLANNED:
        raise ConfigError(
            f"hardware.plan=true plans training, and stage={settings.stage.name} does not train: leave it out"
        )
    own = composed(["stage=plan", *shared]).stage_as(PlanStage)
    return show(own, [settings])


def advance(job: Settings, overrides: Sequence[str], settings: Settings, place: Path | None = None) -> dict[str, float]:
    """Run one stage if it is missing or stale, print the reason, and return its metrics.

    ``place`` is its directory, by default that of its command; ``settings`` are those of the whole.
    """
    from rlhf.stages import execute

    name = job.stage.name if place is None else f"{place.parent.name}/{place.name}"
    place = place or _place(job)
    origin, reason = stale(place, job)
    if reason is None and not settings.overwrite:
        console.print(f"[bold]{name}[/bold]: up to date, skipped")
        return Run.open(place).manifest["metrics"]
    origin = origin or Origin.of(job, overrides)
    resumes = resumable(place, origin.content)
    console.print(
        f"[bold]{name}[/bold]: {text(reason or 'overwrite=true')}; " + ("continuing" if resumes else "running")
    )
    # A stale run is replaced; an interrupted run with other settings is not.
    overwrite = not resumes and (settings.overwrite or saved(partial(place)) is None)
    return execute(replace(job, overwrite=overwrite, resume=resumes), place, overrides, origin)


def stale(place: Path, job: Settings) -> tuple[Origin | None, str | None]:
    """Return the origin of a new run, None if a parent is missing, and why the run at ``place`` is stale, or None."""
    manifest = read_manifest(place)
    try:
        origin = Origin.of(job)
    except LineageError as error:
        return None, "not run yet" if manifest is None else str(error)
    if manifest is None:
        return origin, "not run yet"
    return origin, difference(manifest["content"], origin.content)
