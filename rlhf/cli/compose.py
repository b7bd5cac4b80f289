"""Hydra's configuration and this package's settings: registration of the types, resolvers, and names of sweep jobs."""

import os
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf, _utils

from rlhf import config
from rlhf.cli.completion import TYPED
from rlhf.cli.overrides import parsed
from rlhf.config import STAGES, Settings
from rlhf.config import objective as objectives
from rlhf.config.rules import closest
from rlhf.errors import ConfigError
from rlhf.storage import secrets
from rlhf.storage.paths import bundled
from rlhf.storage.renamed import old_name

SWEPT = "RLHF_SWEPT"  # environment variable: the keys that the sweep varies, for workers of its launcher too
IN_PATH = ("stage", "name", "checkpoints")
LONGEST_NAME = 120  # most file systems allow 255 bytes


class Typed(ConfigNode):
    """A type in Hydra's store that is made a config when it is read: a command reads the type of one stage only."""

    def __init__(self, name: str, kind: type):
        self.name, self.kind = name, kind
        self.group = self.package = self.provider = None

    @cached_property
    def node(self) -> Any:
        """The config."""
        return OmegaConf.structured(self.kind)


def register() -> None:
    """Register the types of conf/ and the resolvers with Hydra, which then parses YAML in C."""
    kinds = {name: getattr(config, name.capitalize()) for name in ("settings", *TYPED)}
    stages = {f"{name}.yaml": Typed(f"{name}.yaml", stage) for name, stage in STAGES.items()}
    schema = {f"{name}.yaml": Typed(f"{name}.yaml", kind) for name, kind in kinds.items()}
    ConfigStore.instance().repo["schema"] = schema | {"stage": stages}
    resolvers()
    _composition.cache_clear()
    if yaml.__with_libyaml__ and not issubclass(loader := _utils.get_yaml_loader(), yaml.CSafeLoader):
        fast = type("Loader", (yaml.CSafeLoader, loader), {})
        library: Any = _utils
        library.get_yaml_loader = lambda: fast


def resolvers() -> None:
    """Register the resolvers that conf/ uses."""
    OmegaConf.register_new_resolver("bundled", lambda name: str(bundled(name)), replace=True)
    OmegaConf.register_new_resolver("member", member, replace=True)
    OmegaConf.register_new_resolver("direction", direction, replace=True)
    # Twelve digits: 5e-7 times 10 is 5e-06 and not 4.9999999999999996e-06.
    OmegaConf.register_new_resolver("times", lambda rate, factor: float(f"{rate * factor:.12g}"), replace=True)
    OmegaConf.register_new_resolver("by", by, replace=True)
    OmegaConf.register_new_resolver("of_branch", of_branch, replace=True)
    OmegaConf.register_new_resolver("unless", unless, replace=True)
    OmegaConf.register_new_resolver("given", lambda key, value, usual: usual if key is None else value, replace=True)


@contextmanager
def composed_once(options: Sequence[str], overrides: Sequence[str]) -> Generator[None]:
    """Let Hydra not compose all settings only to read ``hydra.mode``, unless the command or its files may set it.

    The files of conf/ leave it null, which ``get_mode`` returns as None; then -m decides.
    """
    files = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")
    if any(word.partition("=")[0] in files for word in options) or any("hydra" in item for item in overrides):
        yield
        return
    library: Any = Hydra
    get_mode = library.get_mode
    library.get_mode = lambda *_, **__: None
    try:
        yield
    finally:
        library.get_mode = get_mode


def by(key: Any, usual: Any, others: Mapping[str, Any]) -> Any:
    """Return ``others[key]`` if it exists, else ``usual``; an enum is looked up by its name.

    For a list, it is the value of the first of its keys that has one.
    """
    keys = [getattr(one, "name", one) for one in (key if isinstance(key, ListConfig) else [key])]
    return next((others[one] for one in keys if one in others), usual)


def unless(*others: Any) -> Any:
    """Return the last argument if all others are None, else None."""
    return others[-1] if all(other is None for other in others[:-1]) else None


def of_branch(branch: str | None, role: str, usual: str) -> str:
    """Return the path of a parent of the run in ``branch``, a run@update; ``usual`` without one."""
    from rlhf.runs.branches import manifest_of

    manifest = None if branch is None else manifest_of(Path(branch.rpartition("@")[0]))
    return (manifest or {"parents": {}})["parents"].get(role, {}).get("path", usual)


def member(overrides: Sequence[str]) -> str:
    """Return a directory name for a job of a sweep: its swept settings, in characters that an override may contain."""
    return _short("_".join(f"{key}-{_in_path(key, value)}" for key, value in varying(overrides).items()))


def old_member(overrides: Sequence[str]) -> str:
    """Return the name that earlier versions gave to a job: with brackets and quotes, and old names of settings."""
    swept = {old_name(key): value for key, value in varying(overrides).items()}
    return _short("_".join(f"{key}-{value}" for key, value in swept.items()).replace("/", "-"))


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 9]}-{_digest(name)}"


def _digest(value: str) -> str:
    from rlhf.storage.digests import text_digest

    return str(text_digest(value))[:8]


def _in_path(key: str, value: str) -> str:
    """Return a value as part of a path, ``[sigmoid,ipo]`` as ``sigmoid+ipo``; a digest replaces lost characters."""
    if secrets.redact(f"{key}={value}") != f"{key}={value}":
        return _digest(value)
    override = parsed(f"{key}={value}")
    read = value if override is None else override.value()
    if isinstance(read, list) and all(isinstance(one, str) for one in read):
        whole = "+".join(read)
    else:
        whole = read if isinstance(read, str) else value
    named = re.sub(r"[^\w.+@-]+", "-", whole.replace("/", "-"), flags=re.ASCII)
    return named if named == whole.replace("/", "-") else f"{named.strip('-')}-{_digest(value)}"


def swept_keys(overrides: Sequence[str]) -> list[str]:
    """Return the settings that a sweep varies, except those that are in the path already, such as stage and name."""
    found = [one for item in overrides if (one := parsed(item)) is not None and one.is_sweep_override()]
    return [one.get_key_element() for one in found if one.get_key_element() not in IN_PATH]


def composed(overrides: Sequence[str]) -> Settings:
    """Return the settings of a command, composed once however often they are asked for. Hydra has its options already.

    Raises:
        ConfigError: as `settings_of`; Hydra and OmegaConf raise their own errors for other mistakes.
    """
    return settings_of(_composition(tuple(one for one in overrides if not one.startswith("-"))))


@cache
def _composition(overrides: tuple[str, ...]) -> DictConfig:
    return hydra.compose(config_name="config", overrides=list(overrides))


def settings_of(composed: DictConfig) -> Settings:
    """Return the composed configuration as plain dataclasses; their rules are checked here.

    Raises:
        ConfigError: a ``+key`` names an unknown setting; only arguments of a trainer can be added.
    """
    settings: Any = OmegaConf.to_object(composed)
    for prefix, node in {"": settings, **vars(settings)}.items():
        if is_dataclass(node):
            known = {field.name for field in fields(node)}
            for key in vars(node).keys() - known:
                raise ConfigError(
                    f"there is no setting +{prefix}{'.' if prefix else ''}{key}{closest(key, known, prefix)}"
                )
    return settings


def plain(objective: Any) -> Any:
    """Return ``objective`` without OmegaConf's list type."""
    return OmegaConf.to_object(objective) if isinstance(objective, ListConfig) else objective


def direction(objective: Any, stage: str) -> str | list[str]:
    """Return whether a search maximizes or minimizes; a resolver of conf/sweep/."""
    return objectives.direction(plain(objective), stage)


def varying(overrides: Sequence[str]) -> dict[str, str]:
    """Return the overrides of a job that the sweep varies, as key -> value."""
    swept = os.environ.get(SWEPT, "").split(",")
    pairs = [item.partition("=") for item in overrides]
    return {key: value for key, _, value in pairs if key and key in swept}


resolvers()  # a worker of a sweep's launcher imports this module and never runs ``main``
