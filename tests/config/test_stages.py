"""The rules that a type cannot express; each error is one sentence with the key and the value."""

import dataclasses

import pytest

from rlhf.config import STAGES, Input, Settings
from rlhf.config.stage import POLICIES
from rlhf.errors import ConfigError
from tests.conftest import composed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=dpo", "stage.beta=-1"], "stage.beta must be positive, got -1.0"),
        (["stage=dpo", "stage.beta=0"], "stage.beta must be positive, got 0.0"),
        (["stage=dpo", "stage.label_smoothing=0.5"], r"stage.label_smoothing must lie in \[0, 0.5\), got 0.5"),
        (["stage=dpo", "stage.loss=[foo]"], "stage.loss must be one of sigmoid, hinge, .*, got 'foo'"),
        (["stage=dpo", "stage.loss=[exo_pair]"], r"stage.label_smoothing must be above 0 for stage.loss=\[exo_pair\]"),
        (["stage=dpo", "stage.loss=[ipo]", "stage.label_smoothing=0.1"], r"no effect under stage.loss=\[ipo\]: leave"),
        (["stage=dpo", "stage.loss=[sft]", "stage.label_smoothing=0.1"], r"no effect under stage.loss=\[sft\]: leave"),
        (["stage=dpo", "+stage.trainer.loss_weights=[1]"], "must have a weight for each of stage.loss="),
        (["stage=dpo", "stage.loss=[]"], r"stage.loss must name one loss or more, each once, got \[\]"),
        (["stage=ppo", "stage.kl_coef=-0.1"], "stage.kl_coef must not be negative"),
        (["stage=ppo", "stage.missing_eos_penalty=-1"], "stage.missing_eos_penalty must not be negative, got -1.0"),
        (["stage=ppo", "stage.batch_size=10", "stage.minibatches=3"], "stage.batch_size=10 is not divisible"),
        (["stage=ppo", "stage.gae_lambda=1.5"], "stage.gae_lambda must lie in"),
        (["stage=base", "stage.block_length=4"], r"stage.block_length must lie in \[8, 1000000\], got 4"),
        (
            ["stage=reward", "stage.statistics_prompts=1"],
            r"stage.statistics_prompts must lie in \[2, 1000000000\], got 1",
        ),
        (
            ["stage=compare", "stage.reference=nobody"],
            "stage.reference=nobody is not .* merge.: set stage.reference=base",
        ),
        (["stage=inspect", "stage.similarity=0"], "stage.similarity must be positive, got 0"),
        (["stage=inspect", "stage.max_length=0"], "stage.max_length must be positive, got 0"),
        (["stage=inspect", "stage.examples=-1"], "stage.examples must not be negative, got -1"),
        (["stage=progression", "stage.stages=[sft,rl]"], "stage.stages must name one of base, sft"),
        (["stage=progression", "stage.overrides={rl: ['seed=1']}"], "stage.overrides must name one of"),
    ],
)
def test_a_broken_rule_names_key_and_value(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(*overrides)


def test_no_setting_has_a_default_beside_its_yaml() -> None:
    for cls in (Settings, *STAGES.values()):
        for field in dataclasses.fields(cls):
            assert field.default is dataclasses.MISSING, f"{cls.__name__}.{field.name}"
            assert field.default_factory is dataclasses.MISSING, f"{cls.__name__}.{field.name}"


def test_a_stage_says_what_it_starts_from() -> None:
    dpo = composed("stage=dpo").stage
    assert dpo.inputs() == {"policy": Input("checkpoints/almanac/sft", POLICIES)}
    ppo = composed("stage=ppo").stage
    assert ppo.inputs()["reward"] == Input("checkpoints/almanac/reward", ("reward",))
    assert composed("stage=base").stage.inputs() == {}
    compare = composed("stage=compare").stage.inputs()
    assert compare["sft"].required
    assert not compare["ppo"].required
