"""A sweep's jobs and its end: what is finished is not done again, and a leaderboard is drawn when all have ended.

    python -m rlhf -m stage=dpo stage.beta=0.05,0.1,0.3 seed=1,2,3
    python -m rlhf -m stage=dpo sweep=dpo                              # a search, by hydra-optuna-sweeper
    python -m rlhf -m stage=dpo stage.beta=0.05,0.1,0.3 launcher=joblib

Jobs run wherever Hydra's launcher puts them, and each leaves a record (rlhf.evaluation.sweeps.jobs). The same command
again runs the missing and failed jobs and resumes killed ones from their last checkpoint. A search keeps no state: its
seeded sampler proposes the same trials again, and finished trials return their recorded results.
"""

import os
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf

from rlhf.cli import job_slots
from rlhf.config import Settings
from rlhf.config import objective as objectives
from rlhf.console import console
from rlhf.errors import RlhfError, RunError
from rlhf.evaluation.sweeps import jobs
from rlhf.evaluation.sweeps.jobs import FAILED, FINISHED, RUNNING
from rlhf.runs.directory import partial
from rlhf.runs.identity import Origin, difference
from rlhf.runs.interrupted import resumable, settle
from rlhf.storage.manifest import read_manifest
from rlhf.storage.paths import bundled
from rlhf.storage.secrets import redact, text

ID = "RLHF_SWEEP"  # tells a command's jobs from those of others, in workers of its launcher too
SWEPT = "RLHF_SWEPT"  # the keys that the sweep varies, likewise
IN_PATH = ("stage", "name", "checkpoints")


class RefusedError(RunError):
    """A job may not take the place of the run that is there: that one stays on the leaderboard of its own sweep."""


@dataclass
class Watched:
    """What the parent process knows of the sweep that it started."""

    checkpoints: str
    objective: Any


class Watch(Callback):
    """Hydra tells it, in the parent process, what a sweep is composed of: also what a search varies."""

    started: Watched | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        given = {item.partition("=")[0] for item in config.hydra.overrides.task}  # fixes what a search would vary
        searched = [key for key in config.hydra.sweeper.get("params") or () if key not in given.union(IN_PATH)]
        swept = [key for key in os.environ.get(SWEPT, "").split(",") if key]
        os.environ[SWEPT] = ",".join(dict.fromkeys([*swept, *searched]))
        os.environ[ID] = uuid.uuid4().hex
        Watch.started = Watched(config.checkpoints, plain(config.objective))
        if "optuna" in config.hydra.sweeper._target_:
            import optuna

            optuna.logging.set_verbosity(optuna.logging.WARNING)  # its jobs say what they do


def plain(objective: Any) -> Any:
    return OmegaConf.to_object(objective) if isinstance(objective, ListConfig) else objective


def direction(objective: Any, stage: str) -> str | list[str]:
    """The resolver of conf/sweep/: which way a search goes."""
    return objectives.direction(plain(objective), stage)


def varying(overrides: Sequence[str]) -> dict[str, str]:
    """The settings that this job has for itself, among its overrides."""
    swept = os.environ.get(SWEPT, "").split(",")
    pairs = [item.partition("=") for item in overrides]
    return {key: value for key, _, value in pairs if key and key in swept}


def run_job(
    composed: DictConfig,
    directory: Path,
    settings_of: Callable[[DictConfig], Settings],
    run: Callable[..., dict[str, float]],
) -> float | list[float] | None:
    """One job: its record, and what it returns to Hydra's sweeper.

    Raises:
        RlhfError: the job failed; what its siblings do is none of its business.
    """
    if composed.stage.name == "plan" or composed.hardware.plan:
        return plan_job(composed, directory, settings_of, run)
    overrides = list(HydraConfig.get().overrides.task)
    record = {
        "sweep": os.environ.get(ID),
        "stage": composed.stage.name,
        "seed": composed.get("seed"),
        "swept": varying(overrides),
        "overrides": overrides,
        "status": RUNNING,
        "reason": None,
        "content": None,
    }
    try:
        settings = settings_of(composed)
        with job_slots.one(directory.parent / jobs.JOBS) as threads:
            if settings.hardware.threads is None and threads is not None:
                settings = replace(settings, hardware=replace(settings.hardware, threads=threads))
            metrics = advance(settings, directory, record, run)
    except RefusedError as refusal:
        note(directory, jobs.read_record(directory, record) | {"sweep": record["sweep"], "refused": str(refusal)})
        raise
    except BaseException as error:
        name = "" if isinstance(error, RlhfError) else f"{type(error).__name__}: "
        told = "interrupted from the keyboard" if isinstance(error, KeyboardInterrupt) else f"{name}{error}"
        note(directory, record | {"status": FAILED, "reason": told})
        with suppress(OSError):
            directory.rmdir()  # Hydra's, and empty where the job wrote nothing
        raise
    note(directory, record | {"status": FINISHED})
    return objective_of(settings, metrics)


def plan_job(
    composed: DictConfig,
    directory: Path,
    settings_of: Callable[[DictConfig], Settings],
    run: Callable[..., dict[str, float]],
) -> None:
    """Say what a job would take. It leaves no record: it has not run, and may run later.

    Raises:
        RlhfError: it does not fit, or cannot be planned.
        SystemExit: it is one of a search, which would go on past any other error, to the last of its trials.
    """
    with suppress(OSError):
        directory.rmdir()  # Hydra's, and empty where nothing has run
    if "optuna" in HydraConfig.get().sweeper._target_:
        told = "hardware.plan=true plans jobs that are listed, and a search draws its own by what earlier ones reached"
        print(f"rlhf: {told}: leave sweep= out", file=sys.stderr)
        sys.exit(1)
    run(settings_of(composed))


def note(directory: Path, record: dict[str, Any]) -> None:
    """Write the record of a job that trains, one of several of its stage; ``-m stage=base,sft`` has none."""
    if record["swept"] and record["stage"] in objectives.USUAL:
        jobs.write_record(directory, record)


def advance(
    settings: Settings, directory: Path, record: dict[str, Any], run: Callable[..., dict[str, float]]
) -> dict[str, float]:
    """Run the job, go on with it, or take what it recorded where it has run already.

    Raises:
        RefusedError: its directory holds a run with other settings, and nobody said that it may be replaced.
    """
    if settings.stage.name not in objectives.USUAL:  # a chain looks after itself; nothing else is worth keeping
        note(directory, record)
        return run(settings)
    origin = Origin.of(settings, record["overrides"])
    record["content"] = jobs.digest(origin.content)
    resumes = resumable(directory, origin.content)
    if resumes and read_manifest(partial(directory))["status"] == FINISHED:
        settle(directory)
    finished = read_manifest(directory)
    reason = None if finished is None else difference(finished["content"], origin.content)
    if finished is not None and reason is None and not settings.overwrite:
        console.print(f"{directory}: up to date, skipped", markup=False, highlight=False, soft_wrap=True)
        return finished["metrics"]
    if finished is not None and not settings.overwrite:
        raise RefusedError(
            f"{directory} holds a finished run and {reason}: overwrite=true replaces it, name=<another> keeps it"
        )
    note(directory, record)
    how = "continued" if resumes else "run"
    console.print(f"\n{directory}: {how}", style="bold", markup=False, highlight=False, soft_wrap=True)
    return run(replace(settings, overwrite=settings.overwrite and not resumes, resume=resumes), origin)


def objective_of(settings: Settings, metrics: dict[str, float]) -> float | list[float] | None:
    """What Hydra's sweeper is told; several objectives are a list."""
    if settings.objective is None:
        return metrics.get("objective")
    found = objectives.values(metrics, settings.objective, settings.stage.name)
    if found is None:
        raise RunError(f"objective={settings.objective} is not among the metrics of stage={settings.stage.name}")
    return found if isinstance(settings.objective, list) else found[0]


@contextmanager
def watched() -> Iterator[list[Path]]:
    """Around a command: where it was a sweep, its leaderboard is drawn however it ended; yields what then failed."""
    Watch.started = None
    failed: list[Path] = []
    try:
        with _saved_without_secrets():
            yield failed
    finally:
        if Watch.started is not None:
            failed += finish(Watch.started, os.environ[ID])


@contextmanager
def _saved_without_secrets() -> Iterator[None]:
    """Within, Hydra's sweepers, which write what they were composed of to multirun.yaml, write no secrets."""
    save = OmegaConf.save

    def saved(config: Any, f: Any, resolve: bool = False) -> None:
        save(OmegaConf.create(redact(OmegaConf.to_container(config, resolve=resolve))), f)

    OmegaConf.save = staticmethod(saved)  # type: ignore[method-assign]
    try:
        yield
    finally:
        OmegaConf.save = staticmethod(save)  # type: ignore[method-assign]


def finish(started: Watched, sweep: str) -> list[Path]:
    """Draw the leaderboard of the jobs of one command; returns the directories of those that did not finish."""
    own = {
        directory: record
        for directory, record in jobs.records(Path(started.checkpoints))
        if record.get("sweep") == sweep
    }
    refused = [directory for directory, record in own.items() if record.get("refused")]
    ended = [jobs.job(directory, record) for directory, record in own.items() if directory not in refused]
    compared = [job for job in ended if job.stage in objectives.USUAL and job.swept]
    if compared:
        places = {job.directory.parent for job in compared}
        place = places.pop() if len(places) == 1 else Path(os.path.commonpath(places))
        draw(place / "sweep", [str(job.directory) for job in compared], started.objective)
    return refused + [job.directory for job in ended if job.status != FINISHED]


def draw(place: Path, runs: Sequence[str], objective: Any) -> None:
    """What ``stage=sweep`` would do for these jobs; a leaderboard that cannot be drawn is said to be so."""
    from rlhf.cli.main import settings_of
    from rlhf.stages import execute

    with hydra.initialize_config_dir(config_dir=str(bundled("conf")), version_base="1.3"):
        composed = hydra.compose(config_name="config", overrides=["stage=sweep", "experiment=none", "hardware=cpu"])
    settings = settings_of(composed)
    settings.stage.runs = list(runs)
    settings = replace(settings, name=place.parent.name, objective=objective)
    try:
        execute(settings, place, [f"stage.runs=[{place.parent}]"])
    except RlhfError as error:
        console.print(f"sweep: there is no leaderboard, since {text(str(error))}", markup=False, soft_wrap=True)
