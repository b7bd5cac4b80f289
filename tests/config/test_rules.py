import pytest

from rlhf.config.rules import require, require_not_negative, require_positive
from rlhf.errors import ConfigError


def test_a_rule_that_holds_says_nothing() -> None:
    require(True, "a.b", 1, "be one")
    require_positive("a", b=1, c=0.5, d=None)
    require_not_negative("a", b=0, c=None)


@pytest.mark.parametrize("rule", [require_positive, require_not_negative])
def test_a_broken_one_names_key_and_value(rule) -> None:
    with pytest.raises(ConfigError, match=r"a\.c must (be positive|not be negative), got -1"):
        rule("a", b=1, c=-1)
    with pytest.raises(ConfigError, match="a.b must be one, got 2"):
        require(False, "a.b", 2, "be one")


def test_zero_is_not_positive() -> None:
    with pytest.raises(ConfigError):
        require_positive("a", b=0)
