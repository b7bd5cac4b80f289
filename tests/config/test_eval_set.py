"""The prompts on which DPO and PPO are measured at the end."""

import pytest

from rlhf.errors import ConfigError
from tests.conftest import composed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=dpo", "eval_set.prompts=-1"], "eval_set.prompts must not be negative, got -1"),
        (["stage=ppo", "eval_set.samples=0"], "eval_set.samples must be positive, got 0"),
        (["stage=ppo", "eval_set.temperature=0"], "eval_set.temperature must be positive, got 0"),
        (["stage=dpo", "eval_set.max_response_length=0"], "eval_set.max_response_length must be positive, got 0"),
    ],
)
def test_a_broken_rule_names_key_and_value(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(*overrides)


def test_none_are_allowed() -> None:
    assert composed("stage=dpo", "eval_set.prompts=0").eval_set.prompts == 0
