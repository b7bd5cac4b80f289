"""How PPO draws its responses."""

import pytest

from rlhf.errors import ConfigError
from tests.conftest import composed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=ppo", "stage.rollout.rows=0"], "stage.rollout.rows must be positive, got 0"),
        (["stage=ppo", "stage.rollout.vllm_memory=1"], "stage.rollout.vllm_memory must lie in .0, 1., got 1"),
        (
            ["stage=ppo", "stage.rollout.engine=vllm", "stage.rollout.vllm_mode=server"],
            "stage.rollout.vllm_mode=server needs the server.s address: set stage.rollout.vllm_url",
        ),
    ],
)
def test_a_broken_rule_names_key_and_value(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(*overrides)


def test_a_server_is_required_only_if_it_is_used() -> None:
    assert composed("stage=ppo", "stage.rollout.vllm_mode=server").stage.rollout.vllm_url is None
