import re

import pytest
from omegaconf.errors import OmegaConfBaseException

from rlhf.cli.main import explain
from rlhf.config import STAGES, objective
from rlhf.errors import ConfigError
from tests.conftest import composed


def test_every_stage_that_is_trained_is_judged_by_something_that_it_measures() -> None:
    for stage, name in objective.USUAL.items():
        assert stage in STAGES
        assert stage in objective.METRICS[name].keys
    assert {metric.direction for metric in objective.METRICS.values()} == {"maximize", "minimize"}


@pytest.mark.parametrize(
    ("asked", "stage", "names", "direction"),
    [
        (None, "dpo", ["reward_accuracy"], "maximize"),
        (None, "sft", ["loss"], "minimize"),
        ("eval/rewards/margins", "dpo", ["margin"], "maximize"),  # by its name in run.json
        (["gold", "kl"], "ppo", ["gold", "kl"], ["maximize", "minimize"]),
    ],
)
def test_names_and_directions(asked: object, stage: str, names: list[str], direction: object) -> None:
    assert objective.names(asked, stage) == names
    assert objective.direction(asked, stage) == direction


def test_values_are_those_of_the_stages_own_metrics() -> None:
    metrics = {"test/accuracy": 0.8, "eval/loss": 0.4}
    assert objective.values(metrics, None, "reward") == [0.8]
    assert objective.values(metrics, ["loss", "accuracy"], "reward") == [0.4, 0.8]
    assert objective.values({}, "accuracy", "reward") is None
    assert objective.values(metrics, None, "status") is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=reward", "objective=gold"], "be one of accuracy, margin, calibration_error, loss for stage=reward"),
        (["stage=status", "objective=gold"], "objective must be null for stage=status, got 'gold'"),
        (["stage=dpo", "objective=3"], "be null, the name of a metric, or a list of names, got 3"),
        (["stage=dpo", "objective=[]"], "be null, the name of a metric, or a list of names"),
        (["stage=ppo", "objective=[gold,glod]"], "objective must be one of .* got 'glod'"),
        (["stage=ppo", "objective=kl", "eval_set.prompts=0"], "objective=kl is measured on held-out prompts"),
        (["stage=ppo", "objective=gold", "stage.gold=null"], "objective=gold is by a gold reward, and there is none"),
        (["stage=dpo", "eval_set.samples=0"], "eval_set.samples must be positive, got 0"),
        (["stage=dpo", "eval_set.prompts=-1"], "eval_set.prompts must not be negative, got -1"),
        (["stage=sweep", "stage.runs=[]"], "stage.runs must name a sweep's folder or a run, or several"),
    ],
)
def test_what_cannot_be_measured_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises((ConfigError, OmegaConfBaseException)) as told:  # which wraps what a nested dataclass raises
        composed(*overrides)
    assert re.search(message, explain(told.value)), explain(told.value)


def test_win_rate_of_ppo_needs_no_gold_reward() -> None:
    assert composed("stage=ppo", "objective=win_rate", "stage.gold=null").objective == "win_rate"
