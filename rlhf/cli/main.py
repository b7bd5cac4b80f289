"""The command line: ``python -m rlhf stage=dpo`` and the console script ``rlhf``.

A mistake in the settings is one sentence before torch is imported; HYDRA_FULL_ERROR=1 shows the traceback instead.
No secret is in what this module prints.
"""

import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import rlhf
from rlhf import config
from rlhf.cli import sweep
from rlhf.cli.messages import closest, explain
from rlhf.cli.overrides import arguments_of, parsed, split
from rlhf.cli.sweep import IN_PATH, SWEPT
from rlhf.config import STAGES, Settings
from rlhf.console import console, without_controls
from rlhf.errors import ConfigError, RlhfError, RunError
from rlhf.evaluation.sweeps.jobs import record_path
from rlhf.hardware import launch, ranks
from rlhf.hub import telemetry
from rlhf.runs.commands import line
from rlhf.runs.directory import partial
from rlhf.runs.identity import Origin
from rlhf.storage import secrets
from rlhf.storage.digests import text_digest
from rlhf.storage.paths import bundled
from rlhf.storage.renamed import old_name

LONGEST_NAME = 120  # most file systems allow 255 bytes
TRACEBACK = "RLHF_TRACEBACK"  # set where the user asked for tracebacks with HYDRA_FULL_ERROR=1


def register() -> None:
    """Tell Hydra the types of conf/, and YAML the place of the data that ships with the package."""
    store = ConfigStore.instance()
    store.store(group="schema", name="settings", node=Settings)
    for name in ("model", "data", "adapter", "hardware", "tracker", "judge"):
        store.store(group="schema", name=name, node=getattr(config, name.capitalize()))
    for name, stage in STAGES.items():
        store.store(group="schema/stage", name=name, node=stage)
    resolvers()


def resolvers() -> None:
    """Also run on import: a worker of a sweep's launcher imports this module, and is never in ``main``."""
    OmegaConf.register_new_resolver("bundled", lambda name: str(bundled(name)), replace=True)
    OmegaConf.register_new_resolver("member", member, replace=True)
    OmegaConf.register_new_resolver("direction", sweep.direction, replace=True)
    # Twelve digits: 5e-7 times 10 is 5e-06 and not 4.9999999999999996e-06.
    OmegaConf.register_new_resolver("times", lambda rate, factor: float(f"{rate * factor:.12g}"), replace=True)
    OmegaConf.register_new_resolver("unless", lambda given, value: value if given is None else None, replace=True)


def member(overrides: Sequence[str]) -> str:
    """Return a directory name for a member of a sweep: what varies in it, in characters that an override may hold."""
    return _short("_".join(f"{key}-{_in_path(key, value)}" for key, value in sweep.varying(overrides).items()))


def old_member(overrides: Sequence[str]) -> str:
    """Return the name that a member had while brackets and quotes were left in it, and settings had other names."""
    varying = {old_name(key): value for key, value in sweep.varying(overrides).items()}
    return _short("_".join(f"{key}-{value}" for key, value in varying.items()).replace("/", "-"))


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 9]}-{text_digest(name)[:8]}"


def _in_path(key: str, value: str) -> str:
    """Return a value as a part of a path, ``[sigmoid,ipo]`` as ``sigmoid+ipo``; a digest stands for what is lost."""
    if secrets.redact(f"{key}={value}") != f"{key}={value}":
        return text_digest(value)[:8]
    override = parsed(f"{key}={value}")
    read = value if override is None else override.value()
    if isinstance(read, list) and all(isinstance(one, str) for one in read):
        whole = "+".join(read)
    else:
        whole = read if isinstance(read, str) else value
    named = re.sub(r"[^\w.+@-]+", "-", whole.replace("/", "-"), flags=re.ASCII)
    return named if named == whole.replace("/", "-") else f"{named.strip('-')}-{text_digest(value)[:8]}"


def swept_keys(overrides: Sequence[str]) -> list[str]:
    """Return the settings that a sweep varies. Stage and name are not among them: they are in the path already."""
    found = [one for item in overrides if (one := parsed(item)) is not None and one.is_sweep_override()]
    return [one.get_key_element() for one in found if one.get_key_element() not in IN_PATH]


def settings_of(composed: DictConfig) -> Settings:
    """The composed configuration as plain dataclasses, whose rules run here.

    Raises:
        ConfigError: a ``+key`` added a setting that no dataclass has; only the pass-through to a trainer is open.
    """
    settings: Settings = OmegaConf.to_object(composed)
    for prefix, node in {"": settings, **vars(settings)}.items():
        if is_dataclass(node):
            known = {field.name for field in fields(node)}
            for key in vars(node).keys() - known:
                raise ConfigError(
                    f"there is no setting +{prefix}{'.' if prefix else ''}{key}{closest(key, known, prefix)}"
                )
    return settings


def directory_of(settings: Settings | None) -> Path:
    """<checkpoints>/<name>/<stage>, and for a member of a sweep the directory below it that Hydra made."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode is RunMode.MULTIRUN:
        made = Path(os.path.relpath(hydra_config.runtime.output_dir))
        before = made.with_name(old_member(list(hydra_config.overrides.task)) or made.name)
        if before != made and (before.exists() or partial(before).exists() or record_path(before).exists()):
            with suppress(OSError):
                made.rmdir()  # Hydra's, and empty
            return before
        return made
    return Path(settings.checkpoints) / settings.name / settings.stage.name


resolvers()


@hydra.main(version_base="1.3", config_path=str(bundled("conf")), config_name="config")
def _run(composed: DictConfig) -> float | list[float] | None:
    # peft 0.21 and trl 1.16 use names that transformers 5.23 deprecates: nothing that a user could do about it
    names = "`(is_gradient_checkpointing|gradient_checkpointing_(dis|en)able)`"
    warnings.filterwarnings("ignore", f"{names} is deprecated", FutureWarning)
    try:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            return sweep.run_job(composed, directory_of(None), settings_of, _execute)
        return _execute(settings_of(composed)).get("objective")
    except (RlhfError, OmegaConfBaseException) as error:
        if HydraConfig.get().mode is RunMode.MULTIRUN or os.environ.get(TRACEBACK):
            _tell(error)
            raise  # the other jobs of the sweep still run; Hydra then ends with this error
        _tell(error)
        sys.exit(1)


def _execute(settings: Settings, origin: Origin | None = None) -> dict[str, float]:
    telemetry.on() if settings.telemetry else telemetry.off()
    overrides = [*searched_places(), *HydraConfig.get().overrides.task]
    directory = directory_of(settings)
    if settings.stage.name == "plan" or settings.hardware.plan:
        from rlhf.cli import progression

        if not progression.plan(settings, overrides):
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise RunError(f"{' '.join(overrides)} does not fit: the plan above says what helps")
            sys.exit(1)
        return {}
    if settings.stage.name == "progression":
        from rlhf.cli import progression

        metrics = progression.run(settings, directory, overrides)
    else:
        from rlhf.stages import execute

        metrics = execute(settings, directory, overrides, origin)
    job = HydraConfig.get().mode is RunMode.MULTIRUN and settings.stage.name != "status"
    if ranks.is_main() and not job:
        _tell_next(settings, overrides)
    return metrics


def _tell_next(settings: Settings, overrides: Sequence[str]) -> None:
    from rlhf.cli.next_command import next_command

    console.print(f"Next: {next_command(settings, overrides)}", markup=False, highlight=False, soft_wrap=True)


def searched_places() -> list[str]:
    """Return the option that names a folder of groups of the user's own, so that a command can be given again."""
    sources = HydraConfig.get().runtime.config_sources
    own = [source.path for source in sources if source.provider == "command-line"]
    return [f"--config-dir={os.path.relpath(path)}" for path in own]


def _tell(error: BaseException) -> None:
    if ranks.is_main():
        print(without_controls(f"rlhf: {explain(error)}"), file=sys.stderr)
        return
    time.sleep(launch.LAST_WORDS)  # what all processes refuse the first one tells, and torchrun ends the others
    print(without_controls(f"rlhf, rank {ranks.rank()}: {explain(error)}"), file=sys.stderr)


def main() -> None:
    """Run the command line; a user's mistake ends in one sentence on stderr and exit code 1."""
    register()
    before, sys.excepthook = dict(os.environ), _traceback_without_secrets
    if "HYDRA_FULL_ERROR" in os.environ:
        os.environ[TRACEBACK] = "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # lets Hydra's own errors through to the handler below
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
            with sweep.watched() as failed:
                _run()
            if failed:  # a search goes on past them, and would end well
                sys.exit(1)
        sys.stdout.flush()
    except (RlhfError, HydraException, OmegaConfBaseException) as error:
        if TRACEBACK in os.environ:
            raise
        if isinstance(error, HydraException):
            _tell(error)
        sys.exit(1)
    except ValueError as error:
        if TRACEBACK in os.environ or not failed or "No trials are completed" not in str(error):
            raise
        sys.exit(1)  # every trial of a search failed, and each has said why
    except AssertionError as error:  # what OmegaConf has for a key below a null
        if TRACEBACK in os.environ or "Unexpected type for root" not in str(error):
            raise
        told = (
            "a setting was given below one that is null, such as model.architecture.x of a model that is not built here"
        )
        print(f"rlhf: {told}: leave it out", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as interruption:
        if ranks.is_main():
            print(f"rlhf: {interrupted(sys.argv[1:], *interruption.args)}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever reads the output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _read(reader: Callable[[list[str]], Any], given: list[str]) -> Any:
    """Return what ``reader`` makes of a command line; a mistake in it ends the command."""
    try:
        return reader(given)
    except ConfigError as error:
        if TRACEBACK in os.environ:
            raise
        _tell(error)
        sys.exit(1)


@contextmanager
def _without_secrets(given: list[str]) -> Iterator[None]:
    """Within, what is printed on stderr, and settings that Hydra prints on stdout, hold no secret."""
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
    """Say what an interruption left of the run in ``directory``, and which command continues from it."""
    if directory is None:
        return "interrupted"
    if left is None:
        return f"interrupted; {directory} had no checkpoint yet, so nothing of it is kept"
    others = [item for item in arguments if item.partition("=")[0] not in ("resume", "overwrite")]
    continues_by_itself = {"-m", "--multirun", "stage=progression"} & set(arguments)
    command = others if continues_by_itself else [*others, "resume=true"]
    return f"interrupted; {directory} has {left}, and this continues from it: {line(command)}"
