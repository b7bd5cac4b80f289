"""Which roles share a base, decided from the parents of runs; sharing changes no number."""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf.config import Settings
from rlhf.data import templates
from rlhf.errors import ConfigError, LineageError, ModelError
from rlhf.modeling import adapters, loading
from rlhf.modeling.from_scratch import new_tokenizer
from rlhf.ppo.checkpoint import trainable
from rlhf.ppo.model_roles import OneBase, Separate, assign
from rlhf.runs.parents import Parent
from tests.ppo.conftest import WORDS, new_policy, new_reward_model
from tests.ppo.test_shared_base import rollout, spread, values_of

LINES = {"sft": "base", "dpo": "sft", "reward": "sft", "other reward": "base"}


@pytest.fixture(scope="module")
def family(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Parent]:
    """base <- sft <- dpo, sft <- reward, base <- other reward: adapters, saved as stages save them; full models."""
    root = tmp_path_factory.mktemp("family")
    for name, model in {
        "base": new_policy(tokenizer),
        "stranger": new_policy(tokenizer, seed=3),
        "whole reward": new_reward_model(tokenizer),
    }.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    for seed, (name, on) in enumerate(LINES.items(), start=20):
        model = load(root, on, "reward" in name)
        task = TaskType.SEQ_CLS if "reward" in name else TaskType.CAUSAL_LM
        heads = ["score"] if "reward" in name else None
        adapter = LoraConfig(r=2, lora_alpha=2, target_modules="all-linear", task_type=task, modules_to_save=heads)
        adapted = spread(get_peft_model(model, adapter), seed)
        loading.save(adapted, tokenizer, root / name, Parent("policy", str(root / on), None))
    return lambda name: Parent("policy", str(root / name), None)


def load(root: Path, name: str, classifies: bool) -> Any:
    """Return a plain model with the adapters of its line merged only by peft: the oracle."""
    kind = AutoModelForSequenceClassification if classifies else AutoModelForCausalLM
    if name == "base":
        return kind.from_pretrained(root / name, **({"num_labels": 1} if classifies else {}))
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(root / name)
    config.task_type = None
    return PeftModel.from_pretrained(load(root, LINES[name], classifies), root / name, config=config).merge_and_unload()


@pytest.fixture
def parents(family: Callable[[str], Parent]) -> Callable[..., dict[str, Parent]]:
    return lambda **roles: {role.replace("_", "."): family(name) for role, name in roles.items()}


Parents = Callable[..., dict[str, Parent]]
Configure = Callable[..., Settings]
LORA = ("adapter=lora", "adapter.rank=3", "adapter.dropout=0.5")
CASES = [
    ("sft", "reward", "sft", [], ["reward"]),
    ("sft", "other reward", "base", ["sft"], ["other reward"]),
    ("base", "other reward", "base", [], ["other reward"]),
    ("base", "reward", "base", [], ["sft", "reward"]),
    ("dpo", "reward", "sft", ["dpo"], ["reward"]),
]


def names(chain: list[Parent]) -> list[str]:
    return [Path(parent.path).name for parent in chain]


@pytest.mark.parametrize(("policy", "reward", "base", "policy_wears", "reward_wears"), CASES)
def test_the_common_part_is_the_base_and_the_rest_are_adapters(
    settings: Configure, parents: Parents, tokenizer: Any, policy: str, reward: str, base: str, policy_wears: list[str],
    reward_wears: list[str], capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    roles = assign(settings("ppo", *LORA), parents(policy=policy, reward=reward), tokenizer)
    assert isinstance(roles, OneBase)
    assert Path(roles.base.path).name == base
    assert {role: names(chain) for role, chain in roles.chains.items()} == {
        "policy": policy_wears,
        "critic": reward_wears,
        "reward": reward_wears,
    }
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("policy", "reward"), [case[:2] for case in CASES])
def test_sharing_changes_no_number(
    settings: Configure, parents: Parents, tokenizer: Any, policy: str, reward: str
) -> None:
    """1e-5 in float32: merging the adapters of separate models rounds their weights."""
    batch, found = rollout(tokenizer), []
    given = parents(policy=policy, reward=reward)
    for share_base_model in ("true", "false"):
        roles = assign(settings("ppo", *LORA, f"stage.share_base_model={share_base_model}"), given, tokenizer)
        roles.policy.eval()
        judge = roles.reward_model("reward")
        if judge is None:
            judge = loading.load_reward_model(given["reward"], settings("ppo").model, tokenizer)
        mask = torch.ones_like(batch.response_ids)
        with torch.no_grad():
            if roles.reference is None:
                with roles.policy.disable_adapter():
                    reference = roles.policy(batch.response_ids).logits
            else:
                reference = roles.reference(batch.response_ids).logits
            for parameter in trainable(roles.policy).values():
                parameter.fill_(0.01)
            found.append(
                (
                    roles.policy(batch.response_ids).logits,
                    reference,
                    values_of(roles.critic.eval(), batch),
                    judge(batch.response_ids, mask).logits,
                    [value.detach() for value in trainable(roles.critic).values()],
                )
            )
    for one, other in zip(found[0][:4], found[1][:4], strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert len(found[0][4]) == len(found[1][4])
    for one, other in zip(found[0][4], found[1][4], strict=True):
        assert torch.equal(one, other)  # the new adapter is drawn alike, and the head is the reward model's


def test_a_whole_reward_model_has_no_base_in_common(
    settings: Configure, parents: Parents, tokenizer: Any, capsys: pytest.CaptureFixture
) -> None:
    given = parents(policy="sft", reward="whole reward")
    assert isinstance(assign(settings("ppo", *LORA), given, tokenizer), Separate)
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("ppo: each role is a separate model, since ")
    assert line.endswith(f"whole reward is not an adapter on a parent of {given['policy'].path}")
    with pytest.raises(
        ConfigError, match="stage.share_base_model=true is not possible, since .*whole reward is not an adapt"
    ):
        assign(settings("ppo", *LORA, "stage.share_base_model=true"), given, tokenizer)


def test_an_unrelated_model_is_not_a_base(settings: Configure, parents: Parents, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="not an adapter on a parent of .*stranger"):
        assign(
            settings("ppo", *LORA, "stage.share_base_model=true"),
            parents(policy="stranger", reward="reward"),
            tokenizer,
        )


def test_separate_models_can_be_chosen(settings: Configure, parents: Parents, tokenizer: Any, capsys: Any) -> None:
    given = parents(policy="sft", reward="reward")
    assert isinstance(assign(settings("ppo", *LORA, "stage.share_base_model=false"), given, tokenizer), Separate)
    assert isinstance(assign(settings("ppo"), given, tokenizer), Separate)
    assert capsys.readouterr().out == ""
    with pytest.raises(ConfigError, match="stage.share_base_model=true needs adapters"):
        settings("ppo", "stage.share_base_model=true")


def test_reward_models_share_where_they_can(
    settings: Configure, parents: Parents, tokenizer: Any, capsys: pytest.CaptureFixture
) -> None:
    """Their common base with the policy is the older one; a full model is loaded separately, and a line reports it."""
    given = parents(policy="sft", reward="reward", rewards_a="other reward", gold="whole reward", rewards_b="reward")
    roles = assign(settings("ppo", *LORA), given, tokenizer)
    assert Path(roles.base.path).name == "base"
    assert names(roles.chains["policy"]) == ["sft"]
    assert names(roles.chains["rewards.a"]) == ["other reward"]
    assert roles.reward_model("gold") is None
    assert "gold" not in roles.chains
    assert "whole reward is not an adapter on" in capsys.readouterr().out
    ids = torch.arange(5, 11).view(1, 6)
    scores = [roles.reward_model(role)(ids).logits.item() for role in ("reward", "rewards.a", "rewards.b")]
    assert scores[0] == scores[2] != scores[1]
    adapters = {name.split(".")[-2] for name, _ in roles.shared.model.named_parameters() if "lora_A" in name}
    assert len(adapters) == 1 + len({"sft", "reward", "other reward"})  # each once, for all roles


def test_an_adapter_without_a_head_is_not_a_reward_model(settings: Configure, parents: Parents, tokenizer: Any) -> None:
    roles = assign(settings("ppo", *LORA), parents(policy="sft", reward="dpo"), tokenizer)
    assert roles.reward_model("reward") is None


def test_the_critic_of_a_reward_without_a_model_starts_from_the_policy(
    settings: Configure, parents: Parents, tokenizer: Any, capsys: pytest.CaptureFixture
) -> None:
    roles = assign(settings("ppo", *LORA), parents(policy="dpo"), tokenizer)
    assert "the critic starts from the policy with a zero head" in capsys.readouterr().out
    assert Path(roles.base.path).name == "dpo"
    batch = rollout(tokenizer)
    assert not values_of(roles.critic, batch).any()
    separate = assign(settings("ppo", *LORA, "stage.share_base_model=false"), parents(policy="dpo"), tokenizer)
    assert not values_of(separate.critic, batch).any()


def test_a_separate_critic(settings: Configure, parents: Parents, tokenizer: Any) -> None:
    roles = assign(settings("ppo", *LORA), parents(policy="sft", reward="reward", critic="other reward"), tokenizer)
    assert names(roles.chains["critic"]) == ["other reward"]
    assert names(roles.chains["reward"]) == ["sft", "reward"]


def test_a_critic_that_does_not_read_the_policys_tokens_is_refused(
    settings: Configure, parents: Parents, tokenizer: Any, tmp_path: Path
) -> None:
    new_policy(tokenizer).save_pretrained(tmp_path)
    new_tokenizer([" ".join(WORDS)] * 4, 270, templates.chat_template("almanac")).save_pretrained(tmp_path)
    given = parents(policy="sft", reward="reward") | {"critic": Parent("critic", str(tmp_path), None)}
    with pytest.raises(LineageError, match="has another vocabulary than stage.policy="):
        assign(settings("ppo", *LORA), given, tokenizer)


def test_no_adapter_is_merged_into_four_bits(
    settings: Configure, parents: Parents, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base is the first model of every line; here, in float32, the numbers are those of merged adapters."""
    monkeypatch.setattr(adapters, "quantization", lambda adapter: {})
    given = parents(policy="sft", reward="reward")
    roles = {kind: assign(settings("ppo", *LORA, f"adapter={kind}"), given, tokenizer) for kind in ("qlora", "lora")}
    assert Path(roles["qlora"].base.path).name == "base"
    assert {role: names(chain) for role, chain in roles["qlora"].chains.items()} == {
        "policy": ["sft"],
        "critic": ["sft", "reward"],
        "reward": ["sft", "reward"],
    }
    ids = torch.arange(5, 11).view(1, 6)
    with torch.no_grad():
        for call in (
            lambda one: one.policy(ids),
            lambda one: one.reference(ids),
            lambda one: one.reward_model("reward")(ids),
        ):
            assert torch.allclose(call(roles["qlora"]).logits, call(roles["lora"]).logits, atol=1e-5)


def test_four_bits_want_a_gpu_and_a_package(
    settings: Configure, parents: Parents, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    given = parents(policy="sft", reward="reward")
    with pytest.raises(ModelError, match="adapter=qlora needs a GPU"):
        assign(settings("ppo", "adapter=qlora"), given, tokenizer)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match="adapter=qlora needs bitsandbytes"):
        assign(settings("ppo", "adapter=qlora"), given, tokenizer)


def test_roles_are_made_alike_in_any_order(settings: Configure, parents: Parents, tokenizer: Any) -> None:
    made = []
    for order in itertools.islice(itertools.permutations(("policy", "critic", "reference")), 3):
        torch.manual_seed(len(made))
        roles = assign(settings("ppo", *LORA), parents(policy="sft", reward="reward"), tokenizer)
        for name in order:
            getattr(roles, name)
        made.append([value.detach() for role in (roles.policy, roles.critic) for value in role.parameters()])
    for others in made[1:]:
        assert all(torch.equal(one, other) for one, other in zip(made[0], others, strict=True))
