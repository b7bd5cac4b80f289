"""Who judges, and what it needs to."""

import pytest

from rlhf.config import Input
from rlhf.errors import ConfigError
from tests.conftest import composed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=label", "judge=reward"], "judge=reward needs judge.model: set judge.model="),
        (["stage=label", "judge=local"], "judge=local needs judge.model"),
        (["stage=label", "judge=endpoint", "judge.url=https://there"], "judge=endpoint needs judge.model"),
        (
            ["stage=label", "judge=endpoint", "judge.model=m", "judge.url=there"],
            "judge.url must be an address such as https://api.openai.com/v1, got .there.",
        ),
        (
            ["stage=label", "judge=endpoint", "judge.model=m", "judge.url=https://there", "judge.timeout=0"],
            "judge.timeout must be positive, got 0",
        ),
        (
            ["stage=label", "judge=endpoint", "judge.model=m", "judge.url=https://there", "judge.price_prompt=-1"],
            "judge.price_prompt must not be negative",
        ),
    ],
)
def test_a_broken_rule_names_key_and_value(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(*overrides)


def test_what_judges_is_a_run_or_a_model_of_its_kind() -> None:
    assert composed("stage=label", "judge=reward", "judge.model=r").judge.inputs() == {"judge": Input("r", ("reward",))}
    local = composed("stage=label", "judge=local", "judge.model=m").judge.inputs()
    assert local == {"judge": Input("m", ("sft", "dpo", "kto", "ppo"))}
    assert composed("stage=label").judge.inputs() == {}
