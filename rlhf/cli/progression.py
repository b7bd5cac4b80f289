"""stage=progression: run what is missing or stale, in order, and end with the comparison.

    python -m rlhf stage=progression
    python -m rlhf stage=progression "stage.overrides={dpo: ['stage.beta=0.3']}"
    python -m rlhf -m stage=progression seed=1,2,3

A stage is stale when its settings, its data or the weights of its parents differ from those that its run.json
holds. With cli.py and sweep.py the only module that knows Hydra: each stage's settings are composed as its own command
would.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydra import compose

from rlhf.cli.main import settings_of
from rlhf.config import PLANNED, Settings
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
    """Run the stages below ``directory``'s parent, each where its own command would put it."""
    shared = common(overrides)
    if directory.name != "progression":  # a member of a sweep: its stages lie in the directory of the member
        shared = [item for item in shared if not item.startswith("name=")]
        shared.append(f"name={os.path.relpath(directory, settings.checkpoints)}")
    commands = commands_of(settings, shared)
    # All before the first: a mistake in the settings of the last stage is told before the others are trained.
    composed = {name: _composed(own) for name, own in commands.items()}
    metrics: dict[str, float] = {}
    started = time.monotonic()
    for name, own in commands.items():
        metrics = advance(composed[name], own, settings)
    if composed:
        place = _place(composed[name])
        last = ending(place, Run.open(place).manifest, "progression", time.monotonic() - started)
        console.print(last, markup=False, highlight=False, soft_wrap=True)
    return metrics


def _place(settings: Settings) -> Path:
    return Path(settings.checkpoints) / settings.name / settings.stage.name


def common(overrides: Sequence[str]) -> list[str]:
    """What the commands of several stages have in common: all but the stage and its settings."""
    return [item for item in overrides if not item.startswith(("stage=", "stage."))]


def commands_of(settings: Settings, shared: Sequence[str]) -> dict[str, list[str]]:
    """The settings of each stage that ``settings.stage`` names, as its own command would give them."""
    own = settings.stage.overrides or {}
    return {name: [f"stage={name}", *shared, *own.get(name, [])] for name in settings.stage.stages}


def _composed(overrides: Sequence[str]) -> Settings:
    """Return the settings of a command; of its options Hydra knows already."""
    return settings_of(compose(config_name="config", overrides=[one for one in overrides if not one.startswith("-")]))


def plan(settings: Settings, overrides: Sequence[str]) -> bool:
    """stage=plan, or hardware.plan=true with the stage that is planned; whether everything fits."""
    from rlhf.stages.plan import run as show

    shared = [item for item in common(overrides) if not item.startswith("hardware.plan=")]
    if settings.stage.name == "plan":
        if settings.stage.stages is None:
            whole = _composed(["stage=progression", *shared]).stage.stages
            stage = replace(settings.stage, stages=[name for name in whole if name in PLANNED])
            settings = replace(settings, stage=stage)
        commands = commands_of(settings, shared).values()
        return show(settings.stage, [_composed(one) for one in commands])
    if settings.stage.name not in PLANNED:
        raise ConfigError(
            f"hardware.plan=true plans what trains, and stage={settings.stage.name} does not: leave it out"
        )
    own = _composed(["stage=plan", *shared]).stage
    return show(own, [settings])


def advance(composed: Settings, overrides: Sequence[str], settings: Settings) -> dict[str, float]:
    """Run one stage if it is missing or stale; say which, and why."""
    from rlhf.stages import execute

    name = composed.stage.name
    place = _place(composed)
    origin, reason = stale(place, composed)
    if reason is None and not settings.overwrite:
        console.print(f"[bold]{name}[/bold]: up to date, skipped")
        return Run.open(place).manifest["metrics"]
    origin = origin or Origin.of(composed, overrides)
    resumes = resumable(place, origin.content)
    console.print(f"[bold]{name}[/bold]: {text(reason or 'overwrite=true')}, " + ("continued" if resumes else "run"))
    # A stale run is replaced without being asked; an interrupted one of other settings is not.
    overwrite = not resumes and (settings.overwrite or saved(partial(place)) is None)
    return execute(replace(composed, overwrite=overwrite, resume=resumes), place, overrides, origin)


def stale(place: Path, composed: Settings) -> tuple[Origin | None, str | None]:
    """What the run would come from, None where a parent is missing; and why that at ``place`` is not it, or None."""
    manifest = read_manifest(place)
    try:
        origin = Origin.of(composed)
    except LineageError as error:
        return None, "not run yet" if manifest is None else str(error)
    if manifest is None:
        return origin, "not run yet"
    return origin, difference(manifest["content"], origin.content)
