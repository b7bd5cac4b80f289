import re
from typing import Literal

import pytest

from rlhf.config.rules import NUMBERS, TYPES, closest, require, require_type
from rlhf.errors import ConfigError


def test_a_rule_that_holds_says_nothing() -> None:
    require(True, "a.b", 1, "be one")


def test_a_broken_one_names_key_and_value() -> None:
    with pytest.raises(ConfigError, match="a.b must be one, got 2"):
        require(False, "a.b", 2, "be one")


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1e-3, float),
        (1, float),
        (None, float | None),
        (3, int | None),
        (True, bool),
        ([0.5, 1], list[float] | None),
        ("sigmoid", list[str]),
        ("{}", dict | str | None),
        (True, str | None),  # transformers' fsdp takes true as well
        ("no", Literal["no"]),
    ],
)
def test_a_value_of_the_type_says_nothing(value: object, hint: object) -> None:
    require_type("a.b", value, hint, NUMBERS)


@pytest.mark.parametrize(
    ("value", "hint", "rule"),
    [
        ("fast", float, "be a number, got 'fast'"),
        (None, float, "be a number, got None"),
        (4.5, int, "be a whole number, got 4.5"),
        (True, int | None, "be a whole number or null, got True"),
        (1, bool, "be true or false, got 1"),
        (1.1, str | None, "be text, got 1.1: put it in quotes, as in \"a.b='...'\""),
        (1, dict | str | None, "be text, got 1: put it in quotes, as in \"a.b='...'\""),
    ],
)
def test_a_value_of_another_type_is_refused(value: object, hint: object, rule: str) -> None:
    for types in (TYPES, NUMBERS):
        with pytest.raises(ConfigError) as error:
            require_type("a.b", value, hint, types)
        assert str(error.value) == f"a.b must {rule}"


def test_our_settings_have_the_texts_and_lists_of_their_hints() -> None:
    with pytest.raises(ConfigError, match="a.b must be text or null, got True"):
        require_type("a.b", True, str | None)
    with pytest.raises(ConfigError, match=re.escape("a.b must be a list of texts, got [1]")):
        require_type("a.b", [1], list[str])


def test_a_setting_of_another_place_comes_after_a_near_name_and_before_a_far_one() -> None:
    assert closest("bta", ["beta"], "stage", ["model.bta"]) == "; did you mean stage.beta?"
    assert closest("epochs", ["policy"], "stage", ["stage.trainer.epochs"]) == "; did you mean stage.trainer.epochs?"
    assert closest("xyz", ["beta"], "stage") == "; known are beta"
    assert closest("xyz", ["beta"]) == ""
