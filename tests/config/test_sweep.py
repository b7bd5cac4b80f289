"""The settings of stage=sweep."""

import pytest

from rlhf.errors import ConfigError
from tests.conftest import composed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=sweep", "stage.runs=[]"], "stage.runs must name one or more sweep folders or runs, got .."),
    ],
)
def test_a_broken_rule_names_key_and_value(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(*overrides)


def test_it_starts_from_no_run_that_must_be_there() -> None:
    stage = composed("stage=sweep", "stage.runs=[here, there]").stage
    assert stage.runs == ["here", "there"]
    assert stage.inputs() == {}
