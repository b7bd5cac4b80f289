"""The common settings of all training stages."""

import pytest

from rlhf.config import STAGES, Input
from rlhf.errors import ConfigError
from tests.conftest import composed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=sft", "stage.sample_every=-1"], "stage.sample_every must not be negative, got -1"),
        (["stage=ppo", "stage.sample_prompts=-1"], "stage.sample_prompts must not be negative, got -1"),
        (["stage=dpo", "stage.sample_length=0"], "stage.sample_length must be positive, got 0"),
        (["stage=base", "stage.early_stopping=0"], "stage.early_stopping must be positive, got 0"),
        (
            ["stage=dpo", "stage.early_stopping=2"],
            "stage.early_stopping=2 needs a held-out loss every .*eval_strategy=",
        ),
        (
            ["stage=sft", "stage.early_stopping=2", "stage.trainer.eval_strategy=steps", "stage.trainer.eval_steps=5"],
            "stage.trainer.eval_steps=5 must be stage.trainer.save_steps=.* with stage.early_stopping, which keeps",
        ),
    ],
)
def test_a_broken_rule_names_key_and_value(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(*overrides)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_goes_by_one_name_and_starts_from_inputs(name: str) -> None:
    stage = composed(f"stage={name}").stage
    assert stage.name == name
    assert type(stage) is STAGES[name]
    assert all(isinstance(one, Input) for one in stage.inputs().values())
