import pytest

from rlhf.config import Input, RewardLoss
from rlhf.errors import ConfigError
from tests.conftest import composed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=reward", "stage.label_smoothing=0.5"], r"stage.label_smoothing must lie in \[0, 0.5\), got 0.5"),
        (["stage=reward", "stage.ensemble=0"], "stage.ensemble must be positive, got 0"),
        (["stage=reward", "stage.ensemble=2"], "stage.ensemble=2 trains adapters on one base: set adapter=lora"),
        (
            ["stage=reward", "stage.loss=plackett_luce", "stage.margin=true"],
            "stage.margin=true needs pairs, but stage.loss=plackett_luce learns rankings",
        ),
        (
            ["stage=reward", "stage.loss=plackett_luce", "stage.label_smoothing=0.1"],
            "stage.label_smoothing=0.1 needs pairs",
        ),
        (["stage=reward", "stage.probe_rows=-1"], "stage.probe_rows must not be negative, got -1"),
        (["stage=evaluate_reward", "stage.bootstrap=0"], "stage.bootstrap must be positive, got 0"),
        (["stage=evaluate_reward", "stage.max_length=0"], "stage.max_length must be positive, got 0"),
        (
            ["stage=evaluate_reward", "stage.statistics_prompts=1"],
            r"statistics_prompts must lie in \[2, 1e\+09\]",
        ),
    ],
)
def test_a_broken_rule_names_key_and_value(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(*overrides)


def test_options_that_go_together() -> None:
    composed("stage=reward", "stage.ensemble=2", "adapter=lora")
    composed("stage=reward", "stage.early_stopping=2", "stage.trainer.eval_strategy=steps")
    assert composed("stage=reward", "stage.loss=plackett_luce").stage.loss is RewardLoss.plackett_luce


def test_what_the_card_starts_from() -> None:
    alone = composed("stage=evaluate_reward", "name=x").stage
    assert alone.inputs() == {"reward": Input("checkpoints/x/reward", ("reward",))}
    beside = composed("stage=evaluate_reward", "stage.policy=checkpoints/x/sft").stage
    assert beside.inputs()["policy"] == Input("checkpoints/x/sft", ("base", "sft", "dpo", "kto", "ppo"))
