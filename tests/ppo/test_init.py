"""PPO as a library: settings without Hydra, and one-line errors for mistakes in them."""

import subprocess
import sys
from typing import Any

import pytest

from rlhf.config import KLEstimator, MissingEOS
from rlhf.errors import ConfigError
from rlhf.ppo import settings
from tests.conftest import composed


def test_settings_are_those_that_hydra_composes() -> None:
    composed_stage, plain = composed("stage=ppo", "experiment=none", "name=x").stage, settings()
    # Only Hydra sets paths of runs and the data's gold reward: PPOTrainer takes models and functions.
    names = [name for name in vars(plain) if "${" not in str(vars(plain)[name]) and name != "gold"]
    assert len(names) > 40
    for name in names:
        assert getattr(plain, name) == getattr(composed_stage, name), name
        assert type(getattr(plain, name)) is type(getattr(composed_stage, name)), name


def test_an_enum_is_passed_by_name_or_as_a_member() -> None:
    assert settings(missing_eos="subtract").missing_eos is MissingEOS.subtract
    assert settings(kl_estimator=KLEstimator.k3).kl_estimator is KLEstimator.k3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"kl_coeff": 0.1}, "there is no setting stage.kl_coeff; did you mean stage.kl_coef?"),
        ({"clip": 0.1}, "there is no setting stage.clip; did you mean stage."),
        ({"zzzzzz": 1}, "there is no setting stage.zzzzzz; known are "),
        ({"missing_eos": "drop"}, "stage.missing_eos must be one of keep, subtract, replace, got 'drop'"),
        ({"kl_coef": "0.1"}, "stage.kl_coef must be a number, got '0.1'"),
        ({"updates": 2.5}, "stage.updates must be a whole number, got 2.5"),
        ({"whiten_advantages": 1}, "stage.whiten_advantages must be true or false, got 1"),
        ({"value_clip": False}, "stage.value_clip must be a number or null, got False"),
        ({"sentinel": {"windows": 3}}, "there is no setting stage.sentinel.windows; did you mean "),
        ({"sentinel": {"window": "3"}}, "stage.sentinel.window must be a whole number, got '3'"),
        ({"sentinel": "stop"}, "stage.sentinel must map some of action, rollbacks, "),
        ({"policy": None}, "stage.policy must be text, got None"),
        ({"gae_lambda": 2.0}, "stage.gae_lambda must lie in [0, 1], got 2.0"),
    ],
)
def test_a_bad_override_is_a_one_line_error(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        settings(**overrides)
    assert str(error.value).startswith(message)


def test_the_trainer_is_imported_from_the_package_without_hydra() -> None:
    code = """
import sys
from rlhf import PPOTrainer
from rlhf.ppo import Critic, settings
stage = settings(updates=1)
assert PPOTrainer.__module__ == "rlhf.ppo.trainer"
assert not {"hydra", "omegaconf", "trl"} & set(sys.modules), "more than a library was imported"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
