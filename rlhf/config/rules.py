"""Rules on values, each told in one sentence that names the key and the value."""

from rlhf.errors import ConfigError


def require(holds: bool, key: str, value: object, rule: str) -> None:
    """Raise ConfigError(``key must rule, got value``) unless ``holds``."""
    if not holds:
        raise ConfigError(f"{key} must {rule}, got {value!r}")


def require_positive(prefix: str, **values: float | None) -> None:
    for key, value in values.items():
        require(value is None or value > 0, f"{prefix}.{key}", value, "be positive")


def require_not_negative(prefix: str, **values: float | None) -> None:
    for key, value in values.items():
        require(value is None or value >= 0, f"{prefix}.{key}", value, "not be negative")
