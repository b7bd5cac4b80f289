"""Checks of values that raise a one-line error with the key and the value."""

import types
from typing import Any, Union, get_args, get_origin

from rlhf.errors import ConfigError

TYPES = {bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}


def require(holds: bool, key: str, value: object, rule: str) -> None:
    """Raise ConfigError("{key} must {rule}, got {value}") unless ``holds``."""
    if not holds:
        raise ConfigError(f"{key} must {rule}, got {value!r}")


def require_type(key: str, value: object, hint: Any) -> None:
    """Raise ConfigError if ``value`` is not of the type ``hint`` of a library's dataclass, which does not check it.

    Only numbers, booleans and null are checked. For text, lists and mappings the library accepts more than its hint
    says; an unquoted number for a text is still an error.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if all(kind in TYPES for kind in kinds):
        wanted = " or ".join(TYPES[kind] for kind in kinds)
        require(any(_fits(value, kind) for kind in kinds), key, value, f"be {wanted}")
    elif str in kinds and type(value) in (int, float) and not any(_fits(value, kind) for kind in kinds):
        raise ConfigError(f"{key} must be text, got {value!r}: put it in quotes, as in \"{key}='...'\"")


def _fits(value: object, kind: type) -> bool:
    if isinstance(value, bool):  # a subclass of int
        return kind is bool
    return isinstance(value, (int, float) if kind is float else get_origin(kind) or kind)
