"""Jobs of a sweep: finished jobs are skipped, and a leaderboard is written when all have ended.

    python -m rlhf -m stage=dpo stage.beta=0.05,0.1,0.3 seed=1,2,3
    python -m rlhf -m stage=dpo sweep=dpo                              # a search with hydra-optuna-sweeper
    python -m rlhf -m stage=dpo stage.beta=0.05,0.1,0.3 launcher=joblib

Hydra's launcher places the jobs, and each writes a record (rlhf.evaluation.sweeps.jobs). Repeating the command runs
missing and failed jobs and resumes killed ones from their last checkpoint. A search has no state: its seeded sampler
proposes the same trials again, and finished trials return their recorded results.
"""

import os
import sys
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from rlhf.cli import job_slots
from rlhf.cli.compose import IN_PATH, SWEPT, plain, settings_of, varying
from rlhf.config import Settings, SweepStage
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

ID = "RLHF_SWEEP"  # environment variable: identifies the jobs of one command, in workers of its launcher too


class RefusedError(RunError):
    """A job may not replace an existing run, which stays on the leaderboard of the sweep that it belongs to."""


@dataclass
class Watched:
    """Settings of the sweep that the parent process started."""

    checkpoints: str
    objective: Any


class Watch(Callback):
    """A Hydra callback that records in the parent process what a sweep or a search varies."""

    started: Watched | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Set the environment variables of the sweep's jobs before they start."""
        given = {item.partition("=")[0] for item in config.hydra.overrides.task}  # fixed, not searched
        searched = [key for key in config.hydra.sweeper.get("params") or () if key not in given.union(IN_PATH)]
        swept = [key for key in os.environ.get(SWEPT, "").split(",") if key]
        os.environ[SWEPT] = ",".join(dict.fromkeys([*swept, *searched]))
        os.environ[ID] = uuid.uuid4().hex
        Watch.started = Watched(config.checkpoints, plain(config.objective))
        if "optuna" in config.hydra.sweeper._target_:
            import optuna

            optuna.logging.set_verbosity(optuna.logging.WARNING)  # the jobs print their own progress


def run_job(
    composed: DictConfig,
    directory: Path,
    run: Callable[..., dict[str, float]],
) -> float | list[float] | None:
    """Run one job, write its record, and return its objective to Hydra's sweeper.

    Raises:
        RlhfError: the job failed. Other jobs are unaffected.
    """
    if composed.stage.name == "plan" or composed.hardware.plan:
        return plan_job(composed, directory, run)
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
        reason = "interrupted from the keyboard" if isinstance(error, KeyboardInterrupt) else f"{name}{error}"
        note(directory, record | {"status": FAILED, "reason": reason})
        with suppress(OSError):
            directory.rmdir()  # Hydra's; empty if the job wrote nothing
        raise
    note(directory, record | {"status": FINISHED})
    return objective_of(settings, metrics)


def plan_job(
    composed: DictConfig,
    directory: Path,
    run: Callable[..., dict[str, float]],
) -> None:
    """Print the plan of a job. No record is written, since the job has not run.

    Raises:
        RlhfError: the job does not fit, or cannot be planned.
        SystemExit: the job is a trial of a search, which would continue after any other error.
    """
    with suppress(OSError):
        directory.rmdir()  # Hydra's; empty if nothing has run
    if "optuna" in HydraConfig.get().sweeper._target_:
        cause = "hardware.plan=true plans listed jobs, and a search chooses its jobs from the results of earlier ones"
        print(f"rlhf: {cause}: leave sweep= out", file=sys.stderr)
        sys.exit(1)
    run(settings_of(composed))


def note(directory: Path, record: dict[str, Any]) -> None:
    """Write the record of a training job if its sweep varies a setting; ``-m stage=base,sft`` has no records."""
    if record["swept"] and record["stage"] in objectives.USUAL:
        jobs.write_record(directory, record)


def advance(
    settings: Settings, directory: Path, record: dict[str, Any], run: Callable[..., dict[str, float]]
) -> dict[str, float]:
    """Run or resume the job, or return the recorded metrics if it is finished.

    Raises:
        RefusedError: its directory holds a run with other settings, and overwrite is false.
    """
    if settings.stage.name not in objectives.USUAL:  # a chain skips finished stages itself; others are not recorded
        note(directory, record)
        return run(settings)
    origin = Origin.of(settings, record["overrides"])
    record["content"] = jobs.digest(origin.content)
    resumes = resumable(directory, origin.content)
    if resumes and (read_manifest(partial(directory)) or {}).get("status") == FINISHED:
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
    """Return the objective for Hydra's sweeper; several objectives are a list."""
    if settings.objective is None:
        return metrics.get("objective")
    found = objectives.values(metrics, settings.objective, settings.stage.name)
    if found is None:
        raise RunError(f"objective={settings.objective} is not among the metrics of stage={settings.stage.name}")
    return found if isinstance(settings.objective, list) else found[0]


@contextmanager
def watched() -> Generator[list[Path]]:
    """Write the leaderboard when a sweep ends, also after an error; the yielded list receives the failed jobs."""
    Watch.started = None
    failed: list[Path] = []
    try:
        with _saved_without_secrets():
            yield failed
    finally:
        if Watch.started is not None:
            failed += finish(Watch.started, os.environ[ID])


@contextmanager
def _saved_without_secrets() -> Generator[None]:
    """Redact secrets in multirun.yaml, which Hydra's sweepers write."""
    library: Any = OmegaConf
    save = library.save

    def saved(config: Any, f: Any, resolve: bool = False) -> None:
        save(OmegaConf.create(redact(OmegaConf.to_container(config, resolve=resolve))), f)

    library.save = staticmethod(saved)
    try:
        yield
    finally:
        library.save = staticmethod(save)


def finish(started: Watched, sweep: str) -> list[Path]:
    """Write the leaderboard of one command's jobs and return the directories of those that did not finish."""
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
    """Write the leaderboard of these jobs as ``stage=sweep`` does, or print why that is not possible."""
    from rlhf.stages import execute

    with hydra.initialize_config_dir(config_dir=str(bundled("conf")), version_base="1.3"):
        composed = hydra.compose(config_name="config", overrides=["stage=sweep", "experiment=none", "hardware=cpu"])
    settings = settings_of(composed)
    stage = replace(settings.stage_as(SweepStage), runs=list(runs))
    settings = replace(settings, stage=stage, name=place.parent.name, objective=objective)
    try:
        execute(settings, place, [f"stage.runs=[{place.parent}]"])
    except RlhfError as error:
        console.print(f"sweep: no leaderboard, since {text(str(error))}", markup=False, soft_wrap=True)
