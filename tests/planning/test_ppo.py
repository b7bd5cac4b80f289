"""PPO's plan against the one that the stage prints, and its properties."""

from collections.abc import Callable
from typing import Any

import pytest

from rlhf.config import Settings
from rlhf.errors import ConfigError
from rlhf.planning.estimate import Outlook, look_ahead
from rlhf.planning.ppo import shares
from rlhf.planning.roles import plan
from rlhf.ppo.model_roles import assign
from rlhf.runs.parents import Parent
from tests.conftest import FAST, TINY, composed
from tests.planning.conftest import ROWS, plan_of
from tests.ppo.conftest import OF_REWARD, tokenizer  # noqa: F401 - a fixture
from tests.ppo.test_model_roles import LORA, family, parents  # noqa: F401 - fixtures

Ahead = Callable[..., Outlook]
Parents = Callable[..., dict[str, Parent]]


def settings_on(found: dict[str, Parent], *overrides: str) -> Settings:
    paths = [f"stage.policy={found['policy'].path}", f"stage.reward={found['reward'].path}", "stage.gold=null"]
    return composed("stage=ppo", "hardware=cpu", *TINY, *FAST["ppo"], *paths, *overrides)


@pytest.mark.parametrize(
    "way",
    ["adapter=none", "stage.share_base_model=false", "stage.share_base_model=true", "stage.critic_kind=value_head"],
)
def test_the_plan_agrees_with_the_stage(parents: Parents, tokenizer: Any, way: str) -> None:  # noqa: F811
    found = parents(policy="sft", reward="reward")
    settings = settings_on(found, *(() if way in ("adapter=none", "stage.critic_kind=value_head") else LORA), way)
    stage_says = plan(settings, assign(settings, found, tokenizer), 30)
    lines = {role.name: role for role in stage_says.roles}
    ledger = look_ahead(settings, plan_of(), ROWS["ppo"]).ledger
    assert [one for one in ledger.phases if one.name != "loading"] == [
        one for one in stage_says.phases if one.name != "loading"
    ]
    for role in ledger.roles:
        if role.name in ("policy", "critic", "reference", "shared base"):
            line = lines[role.name]
            assert (role.trainable, role.gradients, role.optimizer) == (line.trainable, line.gradients, line.optimizer)
            assert role.weights == pytest.approx(line.weights, rel=0.01)


def test_runs_of_one_base_share_it(parents: Parents) -> None:  # noqa: F811
    one = settings_on(parents(policy="sft", reward="reward"), *LORA)
    assert shares(one)
    assert not shares(settings_on(parents(policy="sft", reward="whole reward"), *LORA))
    assert not shares(settings_on(parents(policy="sft", reward="reward"), *LORA, "stage.share_base_model=false"))
    assert not shares(settings_on(parents(policy="sft", reward="reward")))
    assert shares(composed("stage=ppo", "adapter=lora"))  # nothing is trained yet


def test_one_base_takes_less_than_four_models(ahead: Ahead) -> None:
    whole, four, one = (
        ahead("ppo", *given).ledger
        for given in ((), ("adapter=lora", "stage.share_base_model=false"), ("adapter=lora",))
    )
    held = [
        sum(role.weights + role.gradients + role.optimizer for role in ledger.roles) for ledger in (whole, four, one)
    ]
    assert held[0] > 2 * held[1] > 4 * held[2]
    assert whole.peak > four.peak > one.peak


def test_micro_batches_and_gpus_take_their_share(ahead: Ahead) -> None:
    phases = {}
    for name, given in {"8": ["stage.micro_batch_size=8"], "16": ["stage.micro_batch_size=16"]}.items():
        phases[name] = {phase.name: phase for phase in ahead("ppo", *given).ledger.phases}
    assert phases["16"]["policy loss"].activations == 2 * phases["8"]["policy loss"].activations
    eight = {phase.name: phase for phase in ahead("ppo", plan=("stage.device=a100-80gb", "stage.gpus=8")).ledger.phases}
    assert 8 * eight["sampling"].cache == phases["16"]["sampling"].cache


def test_gradients_accumulate_only_over_micro_batches(ahead: Ahead) -> None:
    one = ahead("ppo", "stage.batch_size=8", "stage.micro_batch_size=8").ledger
    several = ahead("ppo", "stage.batch_size=8", "stage.micro_batch_size=4").ledger
    loss = {phase.name: phase for phase in one.phases}["policy loss"]
    assert (loss.gradients, {phase.name: phase for phase in several.phases}["policy loss"].gradients) == (
        (),
        ("policy", "critic"),
    )


def test_a_head_on_the_policy_has_no_separate_pass(ahead: Ahead) -> None:
    own, head = ahead("ppo"), ahead("ppo", "stage.critic_kind=value_head")
    assert {phase.name for phase in own.ledger.phases} - {phase.name for phase in head.ledger.phases} == {
        "critic backward"
    }
    assert head.ledger.peak < own.ledger.peak
    assert 2 * head.work.trained == own.work.trained
    assert 4 * head.work.read == 3 * own.work.read


@pytest.mark.parametrize(("kind", "adapter"), [*((kind, "none") for kind in OF_REWARD[1:]), ("grpo", "lora")])
def test_other_estimators_have_no_critic_and_samples_are_rows(ahead: Ahead, kind: str, adapter: str) -> None:
    own = ahead("ppo", f"adapter={adapter}")
    other = ahead("ppo", f"adapter={adapter}", f"stage.advantage={kind}", "stage.samples=4")
    assert {role.name for role in own.ledger.roles} - {role.name for role in other.ledger.roles} == {"critic"}
    assert "critic backward" not in {phase.name for phase in other.ledger.phases}
    assert other.work.drawn == 4 * own.work.drawn
    assert other.work.trained == 4 * own.work.trained / 2


def test_a_reward_function_is_reported_as_not_planned(ahead: Ahead) -> None:
    given = ("stage.reward=null", "stage.rewards={brief: {length: {max: 12}}}", "stage.gold=null")
    ledger = ahead("ppo", *given).ledger
    assert [role.name for role in ledger.roles] == ["policy", "reference", "critic"]
    assert "not planned" in ledger.notes[0]
    assert not ahead("ppo").ledger.notes


def test_fewer_responses_at_once_have_a_smaller_cache(ahead: Ahead) -> None:
    whole, part = (
        {phase.name: phase for phase in ahead("ppo", f"stage.rollout.rows={rows}").ledger.phases}["sampling"]
        for rows in ("null", 64)
    )
    assert whole.cache == 8 * part.cache
    assert whole.vocabulary == 8 * part.vocabulary


def test_shards_are_not_for_ppo(ahead: Ahead) -> None:
    with pytest.raises(ConfigError, match="cannot be planned for ppo"):
        ahead("ppo", plan=("stage.device=a100-80gb", "stage.gpus=8", "stage.strategy=fsdp"))
