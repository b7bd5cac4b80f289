"""Steps within a budget of tokens, against counts by hand."""

from collections.abc import Callable
from statistics import fmean

import pytest

from rlhf.config import Settings
from rlhf.config.sweep import BUDGETED
from rlhf.errors import ConfigError
from rlhf.planning.budget import COUNTED, steps
from rlhf.planning.workload import counted


def test_updates_and_steps_spend_the_budget(settings: Callable[..., Settings]) -> None:
    ppo = settings("ppo", "stage.batch_size=4", "stage.epochs=2", "stage.max_response_length=6")
    prompt = fmean(length for length, *_ in counted(ppo, "prompts").lengths)
    update = 4 * (6 + 2 * 2 * (prompt + 6))  # sampled; two epochs of policy and critic
    assert steps(ppo, round(7 * update)) == "stage.updates=7"
    rloo = settings(
        "ppo", "stage.advantage=rloo", "stage.batch_size=4", "stage.samples=2", "stage.max_response_length=6"
    )
    assert steps(rloo, round(5 * 8 * (6 + 2 * (prompt + 6)))) == "stage.updates=5"
    assert steps(ppo, 1) == "stage.updates=1"

    dpo = settings("dpo", "stage.trainer.per_device_train_batch_size=4", "stage.trainer.max_steps=-1")
    pairs = counted(dpo, "preferences").lengths
    pair = fmean(2 * prompt + chosen + rejected for prompt, chosen, rejected in pairs)
    assert steps(dpo, round(10 * 4 * pair)) == "stage.trainer.max_steps=10"


def test_the_stages_with_a_budget_are_those_of_the_settings() -> None:
    assert {*BUDGETED} == {*COUNTED, "ppo"}


def test_other_stages_have_no_budget(settings: Callable[..., Settings]) -> None:
    with pytest.raises(ConfigError, match=r"stage.budget=9 cannot be applied to stage=base: set stage.budget=null"):
        steps(settings("base"), 9)
