"""One-line messages for mistakes in the settings: setting, value, remedy."""

import re
from collections.abc import Iterator
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from rlhf.config import STAGES
from rlhf.config.rules import closest, unknown
from rlhf.errors import RlhfError

EXTRAS = {  # extras of pyproject.toml that install Hydra's plug-ins
    "hydra/sweeper=optuna": "optuna",
    "hydra/launcher=joblib": "joblib",
    "hydra/launcher=submitit_local": "submitit",
    "hydra/launcher=submitit_slurm": "submitit",
    "hydra/launcher=ray": "ray",
}
# Names in other tools and papers -> the last part of our name.
SYNONYMS = {
    "epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "lr": "learning_rate",
    "learning_rate": "learning_rate",
    "grad_accum": "gradient_accumulation_steps",
    "max_seq_length": "max_length",
    "warmup_ratio": "warmup_steps",
    "lora_r": "rank",
    "lora_alpha": "alpha",
}


def explain(error: BaseException) -> str:
    """Return a one-line message: the key, the value, and the closest valid one."""
    if isinstance(error, RlhfError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if extra := EXTRAS.get(f"{group}={option}"):
            return f"{group}={option} needs a package that is not installed: pip install 'rlhf[{extra}]'"
        listed = f"unknown {group} {option!r}; choose from {', '.join(error.options)}"
        return listed + closest(option, error.options)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no value: set {error.full_key}=..."
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read: put its value in quotes, as in \"key='value'\""
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
    if set_before := re.match(r"Could not append to config. An item is already at '(.+)'", first):
        return f"+{set_before[1]} adds a setting that exists: leave out the +"
    if deleted := re.match(r"Could not delete from config. (.+)", first):
        return f"~ cannot delete a setting, since {deleted[1].removesuffix('.')}: leave it out"
    key = getattr(cause, "full_key", None)
    if null := re.match(r"field '([\w.]+)' is not Optional", first):
        return f"{key or null[1]} cannot be null: set a value"
    return f"{key}: {first}" if key and str(key) not in first else first


def _unknown_key(key: str, error: OmegaConfBaseException) -> str:
    parent, _, last = key.rpartition(".")
    known: list[str] = []
    if error.object_type is not None and hasattr(error.object_type, "__dataclass_fields__"):
        known = [field.name for field in fields(error.object_type)]
    elif isinstance(error.parent_node, DictConfig):
        known = [str(name) for name in error.parent_node]
    elsewhere = _elsewhere(last, error.parent_node)
    others = [name for name, kind in sorted(STAGES.items()) if last in kind.__dataclass_fields__]
    if parent == "stage" and others and not elsewhere and not get_close_matches(last, known, cutoff=0.8):
        own = error.parent_node.get("name")
        return f"there is no setting {key} in stage={own}: only stage={', '.join(others)} has it"
    message = unknown(key, known, elsewhere)
    return message + (f"; +{key}=... adds it" if parent.endswith("trainer") else "")


def _elsewhere(last: str, node: Any) -> list[str]:
    """Return all settings whose last part is ``last`` or its synonym."""
    while node is not None and node._get_parent() is not None:
        node = node._get_parent()
    names = (last, SYNONYMS.get(last, last))
    return [key for key in _keys(node) if key.rpartition(".")[2] in names]


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return
    for name in node:
        yield f"{prefix}{name}"
        yield from _keys(node._get_node(name), f"{prefix}{name}.")
