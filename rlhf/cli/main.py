"""The command line: ``python -m rlhf stage=dpo`` and the console script ``rlhf``.

Mistakes in the settings are reported in one line, before torch is imported; HYDRA_FULL_ERROR=1 shows the traceback.
Secrets are removed from all output.
"""

import importlib
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import rlhf
from rlhf.cli.compose import SWEPT, composed_once, old_member, register, settings_of, swept_keys
from rlhf.cli.messages import explain
from rlhf.cli.overrides import arguments_of, split
from rlhf.config import CHAINS, Settings
from rlhf.errors import ConfigError, RlhfError, RunError
from rlhf.hardware import ranks
from rlhf.hub import telemetry
from rlhf.runs.commands import line
from rlhf.storage import secrets
from rlhf.storage.paths import bundled

if TYPE_CHECKING:
    from rlhf.runs.identity import Origin

TRACEBACK = "RLHF_TRACEBACK"  # set if the user asks for tracebacks with HYDRA_FULL_ERROR=1


def directory_of(settings: Settings) -> Path:
    """Return <checkpoints>/<name>/<stage>, or the directory of this job of a sweep."""
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        return job_directory()
    return Path(settings.checkpoints) / settings.name / settings.stage.name


def job_directory() -> Path:
    """Return the directory that Hydra made for this job, or the one that an earlier version made for the same job."""
    from rlhf.evaluation.sweeps.jobs import record_path
    from rlhf.runs.directory import partial

    hydra_config = HydraConfig.get()
    made = Path(os.path.relpath(hydra_config.runtime.output_dir))
    before = made.with_name(old_member(list(hydra_config.overrides.task)) or made.name)
    if before != made and (before.exists() or partial(before).exists() or record_path(before).exists()):
        with suppress(OSError):
            made.rmdir()  # Hydra's, and empty
        return before
    return made


@hydra.main(version_base="1.3", config_path=str(bundled("conf")), config_name="config")
def _run(composed: DictConfig) -> float | list[float] | None:
    # peft 0.21 and trl 1.16 use names that transformers 5.23 deprecates; users cannot change that
    names = "`(is_gradient_checkpointing|gradient_checkpointing_(dis|en)able)`"
    warnings.filterwarnings("ignore", f"{names} is deprecated", FutureWarning)
    try:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            from rlhf.cli import sweep

            return sweep.run_job(composed, job_directory(), _execute)
        return _execute(settings_of(composed)).get("objective")
    except (RlhfError, OmegaConfBaseException) as error:
        if HydraConfig.get().mode is RunMode.MULTIRUN or os.environ.get(TRACEBACK):
            _report(error)
            raise  # the other jobs of the sweep still run; Hydra then ends with this error
        _report(error)
        sys.exit(1)


def _execute(settings: Settings, origin: "Origin | None" = None) -> dict[str, float]:
    telemetry.on() if settings.telemetry else telemetry.off()
    overrides = [*searched_places(), *HydraConfig.get().overrides.task]
    directory = directory_of(settings)
    if settings.stage.name == "plan" or settings.hardware.plan:
        from rlhf.cli import progression

        if not progression.plan(settings, overrides):
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise RunError(f"{' '.join(overrides)} does not fit: see the remedies in the plan above")
            sys.exit(1)
        return {}
    if settings.stage.name in CHAINS:
        runner = importlib.import_module(f"rlhf.cli.{settings.stage.name}")
        metrics = runner.run(settings, directory, overrides)
    else:
        from rlhf.stages import execute

        metrics = execute(settings, directory, overrides, origin)
    job = HydraConfig.get().mode is RunMode.MULTIRUN and settings.stage.recorded
    if ranks.is_main() and not job:
        _print_next(settings, overrides)
    return metrics


def _print_next(settings: Settings, overrides: Sequence[str]) -> None:
    from rlhf.cli.next_command import next_command
    from rlhf.console import console

    console.print(f"Next: {next_command(settings, overrides)}", markup=False, highlight=False, soft_wrap=True)


def searched_places() -> list[str]:
    """Return the --config-dir option of this command, which repeating the command needs."""
    sources = HydraConfig.get().runtime.config_sources
    own = [source.path for source in sources if source.provider == "command-line"]
    return [f"--config-dir={os.path.relpath(path)}" for path in own]


def _report(error: BaseException) -> None:
    from rlhf.console import without_controls
    from rlhf.hardware import launch

    if ranks.is_main():
        print(without_controls(f"rlhf: {explain(error)}"), file=sys.stderr)
        return
    time.sleep(
        launch.LAST_WORDS
    )  # the first process reports an error that all of them raise, and torchrun ends the others
    print(without_controls(f"rlhf, rank {ranks.rank()}: {explain(error)}"), file=sys.stderr)


def main() -> None:
    """Run the command line; a user's mistake ends with one line on stderr and exit code 1."""
    register()
    before, sys.excepthook = dict(os.environ), _traceback_without_secrets
    if "HYDRA_FULL_ERROR" in os.environ:
        os.environ[TRACEBACK] = "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # passes Hydra's errors to the handler below
    try:
        with _without_secrets(sys.argv[1:]):
            _command(sys.argv[1:])
    finally:
        os.environ.clear()
        os.environ.update(before)


def _command(given: list[str]) -> None:
    failed: list[Path] = []
    try:
        if "--version" in given:
            print(f"rlhf {rlhf.__version__}")
        elif {"--help", "-h"} & set(given):
            from rlhf.cli.help import help_text

            print(help_text(_read(split, given)[1]))
        else:
            options, overrides = _read(arguments_of, given)
            sys.argv[1:] = [*overrides, *options]
            os.environ[SWEPT] = ",".join(swept_keys(overrides))
            with composed_once(options, overrides), _watched(options) as failed:
                _run()
            if failed:  # a search continues after failed trials and would exit with 0
                sys.exit(1)
        sys.stdout.flush()
    except (RlhfError, HydraException, OmegaConfBaseException) as error:
        if TRACEBACK in os.environ:
            raise
        if isinstance(error, HydraException):
            _report(error)
        sys.exit(1)
    except ValueError as error:
        if TRACEBACK in os.environ or not failed or "No trials are completed" not in str(error):
            raise
        sys.exit(1)  # all trials of a search failed, and each has reported why
    except AssertionError as error:  # OmegaConf's error for a key below a null
        if TRACEBACK in os.environ or "Unexpected type for root" not in str(error):
            raise
        cause = "an override sets a key below a setting that is null, such as model.architecture.x of a loaded model"
        print(f"rlhf: {cause}: leave it out", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as interruption:
        if ranks.is_main():
            print(f"rlhf: {interrupted(sys.argv[1:], *interruption.args)}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of the output, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _watched(options: Sequence[str]) -> AbstractContextManager[list[Path]]:
    """Return the context that writes a leaderboard; shell completion runs no job and waits for no import."""
    if {"-sc", "--shell-completion"} & set(options):
        return nullcontext([])
    from rlhf.cli import sweep

    return sweep.watched()


def _read(reader: Callable[[list[str]], Any], given: list[str]) -> Any:
    """Return ``reader(given)``; print a mistake in the command line and exit with 1."""
    try:
        return reader(given)
    except ConfigError as error:
        if TRACEBACK in os.environ:
            raise
        _report(error)
        sys.exit(1)


@contextmanager
def _without_secrets(given: list[str]) -> Generator[None]:
    """Redact secrets in stderr, and in stdout if Hydra prints settings there."""
    out, err = sys.stdout, sys.stderr
    sys.stderr = secrets.Redacting(err)
    if any(word.startswith(("--cfg", "-c=", "--info", "-i=")) or word in ("-c", "-i") for word in given):
        sys.stdout = secrets.Redacting(out)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err


def _traceback_without_secrets(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    sys.stderr.write(secrets.text("".join(traceback.format_exception(kind, error, trace))))


def interrupted(arguments: Sequence[str], directory: Path | None = None, left: str | None = None) -> str:
    """Return the message of an interruption: the checkpoint in ``directory`` and the command that continues from it."""
    if directory is None:
        return "interrupted"
    if left is None:
        return f"interrupted; {directory} had no checkpoint yet, so nothing is kept"
    others = [item for item in arguments if item.partition("=")[0] not in ("resume", "overwrite")]
    continues_by_itself = {"-m", "--multirun", *(f"stage={name}" for name in CHAINS)} & set(arguments)
    command = others if continues_by_itself else [*others, "resume=true"]
    return f"interrupted; {directory} has {left}, and this continues from it:\n  {line(command)}"
