"""The settings of stage=compare."""

import pytest

from rlhf.config import Input
from rlhf.config.stage import POLICIES
from rlhf.errors import ConfigError
from tests.conftest import composed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["stage=compare", "stage.reference=nobody"],
            "stage.reference=nobody is not .* merge.: set stage.reference=base",
        ),
        (["stage=compare", "stage.pairs=-1"], "stage.pairs must not be negative, got -1"),
        (["stage=compare", "stage.temperature=0"], "stage.temperature must be positive, got 0"),
        (
            ["stage=compare", "stage.models={sft: s, judge: there}"],
            "stage.models must not use the title of the judge, got .judge.",
        ),
        (
            ["stage=compare", "stage.models={sft: s, reward: there}"],
            "stage.models must not use the title of the reward model",
        ),
    ],
)
def test_a_broken_rule_names_key_and_value(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(*overrides)


def test_a_column_of_the_progression_may_be_missing_and_one_of_the_user_s_may_not() -> None:
    progression = composed("stage=compare").stage
    assert progression.inputs()["sft"].required  # the reference
    assert not progression.inputs()["ppo"].required
    given = composed("stage=compare", "stage.models={sft: s, mine: there}", "stage.reward=null").stage.inputs()
    assert given["mine"] == Input("there", ("base", *POLICIES), True)
    assert set(given) == {"sft", "mine"}
    assert set(composed("stage=compare", "stage.models={sft: s, ppo: null}").stage.inputs()) == {"sft", "reward"}
