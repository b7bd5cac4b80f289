"""Checks of values that raise a one-line error with the key and the value, and the reader of settings from mappings."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from rlhf.errors import ConfigError
from rlhf.storage.renamed import new_name

NUMBERS = {bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}
TYPES = {**NUMBERS, str: "text", list[str]: "a list of texts"}

Group = TypeVar("Group")


def require(holds: bool, key: str, value: object, rule: str) -> None:
    """Raise ConfigError("{key} must {rule}, got {value}") unless ``holds``."""
    if not holds:
        raise ConfigError(f"{key} must {rule}, got {value!r}")


def require_type(key: str, value: object, hint: Any, types: Mapping[Any, str] = TYPES) -> None:
    """Raise ConfigError if ``value`` is not of the type ``hint``; only hints that consist of ``types`` are checked.

    With ``NUMBERS`` it checks the dataclass of a library, which accepts more texts, lists and mappings than its hint
    says; an unquoted number for a text is still an error.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if any(_fits(value, kind) for kind in kinds):
        return
    if str in kinds and type(value) in (int, float):
        raise ConfigError(f"{key} must be text, got {value!r}: put it in quotes, as in \"{key}='...'\"")
    checked = all(kind in types for kind in kinds)
    require(not checked, key, value, f"be {' or '.join(types.get(kind, '') for kind in kinds)}")


def _fits(value: object, kind: Any) -> bool:
    if isinstance(value, bool):  # a subclass of int
        return kind is bool
    if kind == list[str]:
        return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)
    return kind in TYPES and isinstance(value, (int, float) if kind is float else kind)


def read(kind: type[Group], key: str, usual: Any, given: Any) -> Group:
    """Return the dataclass ``kind`` of the setting ``key``: the type-checked mapping ``given`` over ``usual``.

    ``usual`` is a ``kind``, or a mapping as in YAML. ``given`` has enums by value or as members, and nested dataclasses
    as mappings or instances.

    Raises:
        ConfigError: ``given`` is not a mapping, it has an unknown or outdated name, or a value has the wrong type.
    """
    usual = usual if isinstance(usual, Mapping) else vars(usual)
    hints = {field.name: get_type_hints(kind)[field.name] for field in fields(kind)}  # ty: ignore[invalid-argument-type]
    require(isinstance(given, Mapping), key, given, f"map some of {', '.join(hints)} to values")
    for name in given:
        if name not in hints:
            raise ConfigError(unknown(f"{key}.{name}", hints))
    values = {}
    for name, hint in hints.items():
        # PyYAML follows YAML 1.1, in which 3e-6 without a decimal point is a string.
        default = {} if is_dataclass(hint) else float(usual[name]) if hint is float else usual[name]
        values[name] = _typed(f"{key}.{name}", hint, usual[name], given.get(name, default))
    return kind(**values)


def _typed(key: str, hint: Any, usual: Any, value: Any) -> Any:
    """Return ``value`` as an instance of the type ``hint``, converted as Hydra would."""
    if is_dataclass(hint):
        return value if isinstance(value, hint) else read(hint, key, usual, value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        choices = [choice.value for choice in hint]
        require(isinstance(value, hint) or value in choices, key, value, f"be one of {', '.join(choices)}")
        return hint(value)
    require_type(key, value, hint)
    return value


def unknown(key: str, known: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """Return the message for a setting ``key`` that does not exist, with its new name or the closest one."""
    if (new := new_name(key)) != key:
        return f"{key} is called {new} now: give {new}"
    parent, _, name = key.rpartition(".")
    return f"there is no setting {key}{closest(name, known, parent, elsewhere)}"


def closest(word: str, known: Iterable[str], prefix: str = "", elsewhere: Iterable[str] = ()) -> str:
    """Return the end of a sentence that proposes the closest name, here or elsewhere, or lists the known ones."""
    known = list(known)
    for cutoff, found in ((0.8, known), (0, list(elsewhere)), (0.5, known)):
        close = difflib.get_close_matches(word, found, n=1, cutoff=cutoff) if cutoff else found[:1]
        if close:
            return f"; did you mean {prefix + '.' if prefix and cutoff else ''}{close[0]}?"
    return f"; known are {', '.join(known)}" if known and prefix else ""
