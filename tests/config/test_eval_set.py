"""What DPO and PPO are measured on at their end."""

import pytest

from rlhf.errors import ConfigError
from tests.conftest import composed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=dpo", "held_out.prompts=-1"], "held_out.prompts must not be negative, got -1"),
        (["stage=ppo", "held_out.samples=0"], "held_out.samples must be positive, got 0"),
        (["stage=ppo", "held_out.temperature=0"], "held_out.temperature must be positive, got 0"),
        (["stage=dpo", "held_out.max_response_length=0"], "held_out.max_response_length must be positive, got 0"),
    ],
)
def test_a_broken_rule_names_key_and_value(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(*overrides)


def test_none_are_allowed() -> None:
    assert composed("stage=dpo", "held_out.prompts=0").held_out.prompts == 0
