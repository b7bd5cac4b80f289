"""The command line: ``python -m rlhf stage=dpo`` and the console script ``rlhf``.

With progression.py and sweep.py the only module that knows Hydra. A mistake in the settings is told in one sentence
before torch is imported; HYDRA_FULL_ERROR=1 shows the traceback instead.
"""

import difflib
import os
import re
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from rlhf import config
from rlhf.cli import sweep
from rlhf.cli.sweep import IN_PATH, SWEPT
from rlhf.config import STAGES, Settings
from rlhf.errors import ConfigError, RlhfError, RunError
from rlhf.hardware import launch, ranks
from rlhf.hub import telemetry
from rlhf.runs.identity import Origin
from rlhf.storage.digests import redact, text_digest
from rlhf.storage.paths import bundled

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


def named_by_path(arguments: Sequence[str]) -> list[str]:
    """``model=org/name@revision`` is ``model=local model.path=org/name@revision``, and ``data=`` likewise.

    No option of ours has a slash in its name. A sweep over several has to say what it means.
    """
    found = []
    for argument in arguments:
        group, _, value = argument.partition("=")
        if group in ("model", "data") and "/" in value and "," not in value:
            found += [f"{group}=local", f"{group}.path={value}"]
        else:
            found.append(argument)
    return found


def member(overrides: Sequence[str]) -> str:
    """A directory name for a member of a sweep: what varies in it, without slashes, and not too long."""
    swept = os.environ.get(SWEPT, "").split(",")
    varying = [item.replace("=", "-", 1) for item in overrides if item.partition("=")[0] in swept]
    name = "_".join(varying).replace("/", "-")
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 9]}-{text_digest(name)[:8]}"


def swept_keys(arguments: Sequence[str]) -> list[str]:
    """The settings that a sweep varies. Stage and name are not among them: they are in the path already."""
    items = [item for item in arguments if "=" in item and not item.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(items)
    return [
        item.get_key_element() for item in parsed if item.is_sweep_override() and item.get_key_element() not in IN_PATH
    ]


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
                    f"there is no setting +{prefix}{'.' if prefix else ''}{key}{_closest(key, known, prefix)}"
                )
    return settings


def directory_of(settings: Settings | None) -> Path:
    """<checkpoints>/<name>/<stage>, and for a member of a sweep the directory below it that Hydra made."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode is RunMode.MULTIRUN:
        return Path(os.path.relpath(hydra_config.runtime.output_dir))
    return Path(settings.checkpoints) / settings.name / settings.stage.name


HELP = """Take a language model from base to instruction-tuned, one stage at a time:
base -> sft -> reward -> dpo | ppo -> compare

  python -m rlhf                                   what is trained here, and what can be trained next
  python -m rlhf stage=progression                 everything that is missing, in order
  python -m rlhf stage=dpo stage.beta=0.3          one stage
  python -m rlhf -m stage=dpo stage.beta=0.1,0.3   a sweep, and its leaderboard
  python -m rlhf stage=plan                        what all of it will take of memory and time, and whether it fits
  python -m rlhf stage=publish                     a finished run's model card, and with stage.repo= on the Hub
  python -m rlhf stage=dpo --help                  the settings of one stage
  python -m rlhf stage=dpo --cfg job               what a command would run, without running it
  python -m rlhf --config-dir my_conf ...          groups and experiments of your own
  eval "$(rlhf -sc install=bash)"                  completion for the rlhf command
  python -m rlhf --hydra-help                      Hydra's own flags

Groups (group=option):
{groups}

Settings (key=value):
{settings}"""


def help_text(arguments: Sequence[str]) -> str:
    """Hydra's own help lists its groups and ours by composing each of them, which takes seconds."""
    overrides = [item for item in arguments if "=" in item and not item.startswith("-")]
    conf = bundled("conf")
    groups = [folder for folder in sorted(conf.iterdir()) if any(folder.glob("*.yaml"))]
    listed = [f"  {folder.name}: {', '.join(sorted(path.stem for path in folder.glob('*.yaml')))}" for folder in groups]
    with hydra.initialize_config_dir(config_dir=str(conf), version_base="1.3"):
        settings = OmegaConf.to_yaml(hydra.compose(config_name="config", overrides=overrides))
    indented = "".join(f"  {line}\n" for line in settings.splitlines())
    return HELP.format(groups="\n".join(listed), settings=indented)


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
    overrides = list(HydraConfig.get().overrides.task)
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

        return progression.run(settings, directory, overrides)
    from rlhf.stages import execute

    return execute(settings, directory, overrides, origin)


def _tell(error: BaseException) -> None:
    if ranks.is_main():
        print(f"rlhf: {explain(error)}", file=sys.stderr)
        return
    time.sleep(launch.LAST_WORDS)  # what all processes refuse the first one tells, and torchrun ends the others
    print(f"rlhf, rank {ranks.rank()}: {explain(error)}", file=sys.stderr)


def main() -> None:
    """Run the command line; a user's mistake ends in one sentence on stderr and exit code 1."""
    register()
    sys.argv[1:] = named_by_path(sys.argv[1:])
    before, failed = dict(os.environ), []
    if "HYDRA_FULL_ERROR" in os.environ:
        os.environ[TRACEBACK] = "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # lets Hydra's own errors through to the handler below
    try:
        if {"--help", "-h"} & set(sys.argv[1:]):
            print(help_text(sys.argv[1:]))
        else:
            os.environ[SWEPT] = ",".join(swept_keys(sys.argv[1:]))
            with sweep.watched() as failed:
                _run()
            if failed:  # a search goes on past them, and would end well
                sys.exit(1)
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
    finally:
        os.environ.clear()
        os.environ.update(before)


def interrupted(arguments: Sequence[str], directory: Path | None = None, left: str | None = None) -> str:
    """Say what an interruption left of the run in ``directory``, and which command continues from it."""
    if directory is None:
        return "interrupted"
    if left is None:
        return f"interrupted; {directory} had no checkpoint yet, so nothing of it is kept"
    others = [item for item in arguments if item.partition("=")[0] not in ("resume", "overwrite")]
    continues_by_itself = {"-m", "--multirun", "stage=progression"} & set(arguments)
    command = others if continues_by_itself else [*others, "resume=true"]
    told = shlex.join(redact(["python", "-m", "rlhf", *command]))
    return f"interrupted; {directory} has {left}, and this continues from it: {told}"


def explain(error: BaseException) -> str:
    """One sentence for a mistake in the settings: the key, the value, and the closest that there is."""
    if isinstance(error, RlhfError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if extra := sweep.EXTRAS.get(f"{group}={option}"):
            return f'{group}={option} needs a package that is not installed: pip install -e ".[{extra}]"'
        return f"{group}={option} is none of {', '.join(error.options)}{_closest(option, error.options)}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no value yet: give one with {error.full_key}=..."
    cause = error
    while isinstance(cause.__cause__, OmegaConfBaseException | RlhfError):
        cause = cause.__cause__
    if isinstance(cause, RlhfError):
        return str(cause)
    text = str(error.__cause__ or error)
    if isinstance(cause, OmegaConfBaseException) and re.search(r"[Kk]ey '.*' (is )?not in", text):
        return _unknown_key(str(cause.full_key), cause)
    first = str(cause).strip().splitlines()[0]
    if first.startswith("Ambiguous value"):
        return f"{first}: add -m to sweep over the values, or write [a,b] for a list"
    key = getattr(cause, "full_key", None)
    return f"{key}: {first}" if key and str(key) not in first else first


def _unknown_key(key: str, error: OmegaConfBaseException) -> str:
    parent, _, last = key.rpartition(".")
    known: list[str] = []
    if error.object_type is not None and hasattr(error.object_type, "__dataclass_fields__"):
        known = [field.name for field in fields(error.object_type)]
    elif isinstance(error.parent_node, DictConfig):
        known = [str(name) for name in error.parent_node]
    told = f"there is no setting {key}{_closest(last, known, parent)}"
    return told + (f"; +{key}=... adds it" if parent.endswith("trainer") else "")


def _closest(word: str, known: Any, prefix: str = "") -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    if not close:
        return f"; known are {', '.join(known)}" if known and prefix else ""
    return f"; did you mean {prefix + '.' if prefix else ''}{close[0]}?"
