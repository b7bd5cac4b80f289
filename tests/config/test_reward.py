import re

import pytest

from rlhf.config import Input, RewardLoss
from rlhf.config.stage import POLICIES
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
        (
            ["stage=reward", "stage.loss=plackett_luce", "stage.residual=[length]"],
            r"stage.residual=\['length'\] needs pairs",
        ),
        (
            ["stage=reward", "stage.residual=[size]"],
            "stage.residual must name some of length, headers, bold, lists, got",
        ),
        (["stage=reward", "stage.residual=[bold,bold]"], "stage.residual must name each style once, got"),
        (["stage=reward", "stage.probe_rows=-1"], "stage.probe_rows must not be negative, got -1"),
        (["stage=evaluate_reward", "stage.bootstrap=0"], "stage.bootstrap must be positive, got 0"),
        (["stage=evaluate_reward", "stage.members=[a]"], "stage.members must be left out without stage.benchmark"),
        (
            ["stage=evaluate_reward", "stage.benchmark=rm_bench", "stage.prior_sets=a"],
            "stage.prior_sets must be null unless stage.benchmark=rewardbench, got 'a'",
        ),
        (
            ["stage=evaluate_reward", "stage.benchmark=rm_bench", "stage.policy=a"],
            "stage.policy must be null with stage.benchmark=rm_bench, got 'a'",
        ),
        (
            ["stage=evaluate_reward", "stage.benchmark=rm_bench", "stage.benchmark_path=null"],
            "stage.benchmark_path must be a file or folder as released, got None",
        ),
        (["stage=evaluate_reward", "stage.max_length=0"], "stage.max_length must be positive, got 0"),
        (
            ["stage=evaluate_reward", "stage.statistics_prompts=1"],
            r"statistics_prompts must lie in \[2, 1000000000\]",
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
    assert beside.inputs()["policy"] == Input("checkpoints/x/sft", ("base", *POLICIES))


def test_a_benchmark_replaces_the_data_and_has_its_released_path() -> None:
    stage = composed("stage=evaluate_reward", "stage.benchmark=rm_bench", "stage.members=[a,b]", "name=x").stage
    assert stage.benchmark_path == "THU-KEG/RM-Bench"
    for name in ("rewardbench", "rewardbench2"):
        path = composed("stage=evaluate_reward", f"stage.benchmark={name}").stage.benchmark_path
        assert re.fullmatch(r"allenai/reward-bench(-2)?@[0-9a-f]{40}", path)
    assert stage.sources == ()
    assert [one.path for one in stage.inputs().values()] == ["checkpoints/x/reward", "a", "b"]
    assert composed("stage=evaluate_reward").stage.sources == ("preferences",)
