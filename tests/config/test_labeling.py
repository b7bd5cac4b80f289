"""The settings of stage=sample, stage=label and stage=chat."""

import pytest

from rlhf.config import Input
from rlhf.errors import ConfigError
from tests.conftest import composed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=sample", "stage.split=tests"], "stage.split must be one of train, validation, test, got .tests."),
        (["stage=sample", "stage.samples=0"], "stage.samples must be positive, got 0"),
        (["stage=label", "stage.annotators=0"], "stage.annotators must be positive, got 0"),
        (["stage=label", "stage.port=65536"], "stage.port must lie in .0, 65535.; 0 takes any free port, got 65536"),
        (
            ["stage=label", "stage.samples={judge: there}"],
            "stage.samples must not use the title of the judge",
        ),
        (["stage=label", "stage.samples={}"], "stage.samples must map titles to runs of stage=sample"),
        (["stage=label", "stage.samples=[there]"], "stage.samples must map titles to runs of stage=sample"),
        (["stage=chat", "stage.temperature=-1"], "stage.temperature must not be negative, got -1"),
    ],
)
def test_a_broken_rule_names_key_and_value(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(*overrides)


def test_responses_are_of_one_run_or_of_those_with_titles() -> None:
    assert composed("stage=label", "stage.sample=s").stage.inputs() == {"sample": Input("s", ("sample",))}
    several = composed("stage=label", "stage.samples={a: x, b: y}").stage.inputs()
    assert several == {"a": Input("x", ("sample",)), "b": Input("y", ("sample",))}
    assert set(composed("stage=sample").stage.inputs()) == {"policy"}
    assert composed("stage=sample", "stage.reward=r").stage.inputs()["reward"] == Input("r", ("reward",))


def test_a_chat_needs_no_reward_run() -> None:
    given = composed("stage=chat", "stage.policies=[sft,a/b]", "stage.reward=r", "stage.temperature=0").stage
    assert given.policies == ["sft", "a/b"]
    assert given.inputs() == {"reward": Input("r", ("reward",), required=False)}
    assert composed("stage=chat", "stage.reward=null").stage.inputs() == {}
