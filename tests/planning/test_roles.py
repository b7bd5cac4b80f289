"""The plan of stage=ppo against the models that are really made."""

from collections.abc import Callable
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

from rlhf.config import Settings
from rlhf.hardware.memory import NF4
from rlhf.planning.memory_estimate import Ledger, Phase
from rlhf.planning.roles import plan, stored
from rlhf.planning.shapes import measure
from rlhf.ppo.checkpoint import trainable
from rlhf.ppo.model_roles import assign
from rlhf.runs.parents import Parent
from tests.ppo.conftest import config, new_policy, tokenizer  # noqa: F401 - a fixture
from tests.ppo.test_model_roles import LORA, family, parents  # noqa: F401 - fixtures

Configure = Callable[..., Settings]
Parents = Callable[..., dict[str, Parent]]


def phase(ledger: Ledger, name: str) -> Phase:
    return next(one for one in ledger.phases if one.name == name)


def parameters(module: Any) -> int:
    return sum(value.numel() for value in module.parameters())


@pytest.mark.parametrize("way", ["adapter=none", "stage.share_base_model=false", "stage.share_base_model=true"])
def test_the_plan_agrees_with_the_loaded_models(
    settings: Configure,
    parents: Parents,  # noqa: F811
    tokenizer: Any,  # noqa: F811
    way: str,
) -> None:
    given = settings("ppo", *(() if way == "adapter=none" else LORA), way)
    roles = assign(given, parents(policy="sft", reward="reward"), tokenizer)
    lines = {line.name: line for line in plan(given, roles).roles}
    policy, critic = trainable(roles.policy), trainable(roles.critic)
    assert lines["policy"].trainable == sum(value.numel() for value in policy.values())
    assert lines["critic"].trainable == sum(value.numel() for value in critic.values())
    if way == "stage.share_base_model=true":
        roles.reward_model("reward")
        heads = 16 * 4  # one in the adapter's file and one for each of two roles; the plan counts all of them
        whole = sum(value.nbytes for value in roles.shared.model.parameters())
        assert sum(line.weights for line in lines.values()) == whole + 3 * heads
        assert lines["reference"].weights == 0
    elif way == "adapter=none":
        assert lines["reference"].weights == lines["policy"].weights == 4 * parameters(roles.reference)
        assert lines["critic"].weights == lines["reward"].weights == 4 * parameters(roles.critic)
    else:
        assert lines["policy"].weights == 4 * parameters(roles.policy)
        assert lines["critic"].weights == 4 * parameters(roles.critic)


@pytest.mark.parametrize("way", [(), LORA])
def test_a_head_on_the_policy_takes_next_to_nothing(
    settings: Configure,
    parents: Parents,  # noqa: F811
    tokenizer: Any,  # noqa: F811
    way: tuple[str, ...],
) -> None:
    given, found = settings("ppo", *way, "stage.critic_kind=value_head"), parents(policy="sft", reward="reward")
    roles = assign(given, found, tokenizer)
    ledger = plan(given, roles)
    held = {role.name: role for role in ledger.roles}
    own = sum(value.numel() for value in trainable(roles.critic).values())
    critic = held.pop("critic")
    assert own == critic.trainable == critic.parameters == 17
    assert critic.weights + critic.gradients + critic.optimizer == 4 * 4 * own
    with_its_own = settings("ppo", *way)
    other = plan(with_its_own, assign(with_its_own, found, tokenizer))
    assert held == {role.name: role for role in other.roles if role.name != "critic"}
    assert "critic backward" in {one.name for one in other.phases}
    assert "critic backward" not in {one.name for one in ledger.phases}


def test_sharing_saves_three_bases(
    settings: Configure,
    parents: Parents,  # noqa: F811
    tokenizer: Any,  # noqa: F811
) -> None:
    given = parents(policy="sft", reward="reward")
    peaks = []
    for options in ((), (*LORA, "stage.share_base_model=false"), LORA):
        one = settings("ppo", *options)
        found = plan(one, assign(one, given, tokenizer))
        peaks.append(sum(role.weights + role.gradients + role.optimizer for role in found.roles))
    assert peaks[0] > peaks[1] > peaks[2]


def test_a_larger_micro_batch_takes_more(
    settings: Configure,
    parents: Parents,  # noqa: F811
    tokenizer: Any,  # noqa: F811
) -> None:
    found = []
    for size in (1, 2, 4):
        one = settings(
            "ppo",
            *LORA,
            "stage.batch_size=8",
            "stage.minibatches=1",
            f"stage.micro_batch_size={size}",
            "stage.micro_batch_tokens=null",
        )
        made = plan(one, assign(one, parents(policy="sft", reward="reward"), tokenizer))
        found.append(phase(made, "critic backward").activations)
    assert found[1] == 2 * found[0]
    assert found[2] == 4 * found[0]


def test_a_token_budget_limits_the_longest_rows(
    settings: Configure,
    parents: Parents,  # noqa: F811
    tokenizer: Any,  # noqa: F811
) -> None:
    """Six rows of 512 + 6 tokens fit into 3200, and a row that is too long has a separate pass."""
    given, found = parents(policy="sft", reward="reward"), {}
    for name, size, tokens in (("six", 6, "null"), ("budget", "null", 3200), ("one", 1, "null"), ("tiny", "null", 10)):
        bounds = (f"stage.micro_batch_size={size}", f"stage.micro_batch_tokens={tokens}", "stage.max_prompt_length=512")
        one = settings("ppo", *LORA, "stage.batch_size=8", "stage.minibatches=1", *bounds)
        found[name] = plan(one, assign(one, given, tokenizer)).phases
    assert found["six"] == found["budget"]
    assert found["one"] == found["tiny"]


def test_an_adapter_is_counted_from_the_header_of_its_file(
    family: Callable[[str], Parent],  # noqa: F811
    tokenizer: Any,  # noqa: F811
) -> None:
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(new_policy(tokenizer), lora)
    assert stored(family("sft")) == sum(value.numel() for value in trainable(adapted).values())
    assert stored(family("reward")) == stored(family("sft")) + 16


def test_only_layers_are_counted_in_four_bits(
    settings: Configure,
    tokenizer: Any,  # noqa: F811
) -> None:
    whole, packed = (
        measure(config(tokenizer), settings("ppo", f"adapter={kind}").adapter, settings("ppo").model.dtype)
        for kind in ("lora", "qlora")
    )
    model = new_policy(tokenizer)
    linear = sum(value.numel() for name, value in model.named_parameters() if "_proj" in name)
    assert whole.parameters == packed.parameters == parameters(model)
    assert whole.weights == 4 * parameters(model)
    assert packed.weights == pytest.approx(4 * (parameters(model) - linear) + linear * NF4, abs=1)
    assert pytest.approx(4.127, abs=1e-3) == NF4 * 8  # bits, from the paper
    assert whole.adapter == packed.adapter
