"""Steps within a budget of tokens, against counts by hand."""

from collections.abc import Callable
from statistics import fmean

import pytest

from rlhf.config import Settings
from rlhf.config.sweep import BUDGETED
from rlhf.errors import ConfigError
from rlhf.planning.budget import COUNTED, within
from rlhf.planning.workload import counted


def test_updates_and_steps_spend_the_budget(settings: Callable[..., Settings]) -> None:
    ppo = settings("ppo", "stage.batch_size=4", "stage.epochs=2", "stage.max_response_length=6")
    prompt = fmean(length for length, *_ in counted(ppo, "prompts").lengths)
    update = 4 * (6 + 2 * 2 * (prompt + 6))  # sampled; two epochs of policy and critic
    assert within(ppo, round(7 * update)) == ["stage.updates=7"]
    rloo = settings(
        "ppo", "stage.advantage=rloo", "stage.batch_size=4", "stage.samples=2", "stage.max_response_length=6"
    )
    assert within(rloo, round(5 * 8 * (6 + 2 * (prompt + 6)))) == ["stage.updates=5"]
    assert within(ppo, 1) == ["stage.updates=1"]

    dpo = settings("dpo", "stage.trainer.per_device_train_batch_size=4", "stage.trainer.max_steps=-1")
    pairs = counted(dpo, "preferences").lengths
    pair = fmean(2 * prompt + chosen + rejected for prompt, chosen, rejected in pairs)
    assert within(dpo, round(10 * 4 * pair)) == ["stage.trainer.max_steps=10"]


def test_raft_spends_the_budget_on_prompts_and_then_on_responses(settings: Callable[..., Settings]) -> None:
    raft = settings("raft", "stage.samples=4", "stage.trainer.num_train_epochs=3", "stage.trainer.max_steps=-1")
    lengths = [length for length, *_ in counted(raft, "prompts").lengths]
    prompt, response = fmean(lengths), raft.stage.max_response_length
    each = 4 * response + 3 * (prompt + response)  # sampled; three epochs on the best one
    assert within(raft, round(10 * each)) == ["stage.prompts=10"]
    assert within(raft, round(24 * (each + 5 * response))) == ["stage.prompts=24", "stage.samples=9"]
    assert within(settings("raft"), 1) == ["stage.trainer.max_steps=-1", "stage.prompts=2"]


def test_online_dpo_spends_the_budget_on_prompts_and_then_on_rounds(settings: Callable[..., Settings]) -> None:
    own = ("stage.samples=3", "stage.rounds=2", "stage.trainer.max_steps=-1", "stage.max_response_length=6")
    prompt = fmean(length for length, *_ in counted(settings("online_dpo", *own), "prompts").lengths)
    for pairs, count in (("best_worst", 1), ("best", 2), ("all", 3)):
        online = settings("online_dpo", *own, f"stage.pairs={pairs}")
        each = 3 * 6 + count * 2 * (prompt + 6)
        spent = [within(online, round(tokens)) for tokens in (2 * 10 * each, 5 * 24 * each)]
        assert [one[:2] for one in spent] == [
            ["stage.prompts=10", "stage.rounds=2"],
            ["stage.prompts=24", "stage.rounds=5"],
        ]
        assert all(one[2:] == ["stage.stop_early=false"] for one in spent)


def test_the_stages_with_a_budget_are_those_of_the_settings() -> None:
    assert {*BUDGETED} == {*COUNTED, "ppo", "raft", "online_dpo"}


def test_other_stages_have_no_budget(settings: Callable[..., Settings]) -> None:
    with pytest.raises(ConfigError, match=r"stage.budget=9 cannot be applied to stage=base: set stage.budget=null"):
        within(settings("base"), 9)
