"""The limits of PPO's sentinel."""

import pytest

from rlhf.errors import ConfigError
from tests.conftest import composed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=ppo", "stage.sentinel.window=0"], "stage.sentinel.window must be positive, got 0"),
        (["stage=ppo", "stage.sentinel.rollbacks=-1"], "stage.sentinel.rollbacks must not be negative, got -1"),
        (["stage=ppo", "stage.sentinel.rollback_factor=1"], "stage.sentinel.rollback_factor must lie in .0, 1., got 1"),
        (["stage=ppo", "stage.sentinel.eos_rate_min=1.5"], "stage.sentinel.eos_rate_min must lie in .0, 1., got 1.5"),
        (
            ["stage=ppo", "stage.sentinel.explained_variance=1"],
            r"stage.sentinel.explained_variance must lie in \[-1000000, 1\), got 1",
        ),
        (["stage=ppo", "stage.sentinel.kl_min=0"], "stage.sentinel.kl_min must be negative, got 0"),
    ],
)
def test_a_broken_rule_names_key_and_value(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(*overrides)


@pytest.mark.parametrize(
    "name", ["eos_rate_min", "repetition", "distinct", "explained_variance", "kl_min", "approx_kl_max"]
)
def test_null_switches_a_diagnosis_off(name: str) -> None:
    assert getattr(composed("stage=ppo", f"stage.sentinel.{name}=null").stage.sentinel, name) is None
