"""Roles on one base compute the same as separate models, and do not affect each other."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    CTRLConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    Qwen3Config,
)

from rlhf.errors import ModelError
from rlhf.modeling.generation import generate
from rlhf.ppo import Critic, PPOTrainer, checkpoint, settings
from rlhf.ppo.rollout import inputs_of, pack
from rlhf.ppo.shared_base import POLICY, Role, SharedBase, adds_up, has_head, shares
from rlhf.rewards import RewardModel
from rlhf.runs.parents import Parent
from tests.ppo.conftest import PROMPTS, TINY, config, model_inputs, new_policy, response_logits, weights

COMPLETIONS = ["red", "blue cat dog", "", "green", "dog dog dog dog", "bird red", "cat"]


def lora(task: TaskType = TaskType.CAUSAL_LM, **more: Any) -> LoraConfig:
    heads = ["score"] if task is TaskType.SEQ_CLS else None
    options = {"r": 2, "lora_alpha": 3, "target_modules": "all-linear", "modules_to_save": heads} | more
    return LoraConfig(task_type=task, **options)


def spread(model: PeftModel, seed: int) -> PeftModel:
    """Return an adapter as after training: B is not 0."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    return model.eval()


def backbone(tokenizer: Any) -> LlamaForSequenceClassification:
    """Return a classifier with the weights of ``new_policy`` and a new head."""
    torch.manual_seed(5)
    model = LlamaForSequenceClassification(config(tokenizer, num_labels=1))
    model.model.load_state_dict(new_policy(tokenizer).model.state_dict())
    return model.eval()


@pytest.fixture(scope="module")
def reward_model(tokenizer: Any) -> PeftModel:
    """Return a reward model like those of stage=reward, in memory; tests do not change it."""
    return spread(get_peft_model(backbone(tokenizer), lora(TaskType.SEQ_CLS)), 6)


@pytest.fixture(scope="module")
def folder(reward_model: PeftModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the same reward model."""
    place = tmp_path_factory.mktemp("reward")
    reward_model.save_pretrained(place)
    return place


class Cast:
    """Four roles on one base, and the same four as separate models, with equal weights."""

    def __init__(self, tokenizer: Any, reward_model: PeftModel, folder: Path):
        torch.manual_seed(7)
        self.shared = SharedBase(get_peft_model(new_policy(tokenizer), lora()))
        head = self.shared.load("reward", folder)
        self.shared.add("critic", lora(r=3))
        self.policy = self.shared.language_model([POLICY], train=True)
        self.reference = self.shared.language_model([])
        self.critic = self.shared.critic(["reward", "critic"], head)
        self.reward_model = self.shared.classifier(["reward"], head)

        own = get_peft_model(new_policy(tokenizer), lora())
        merged = copy.deepcopy(reward_model).merge_and_unload().requires_grad_(True)
        values = get_peft_model(merged, lora(TaskType.SEQ_CLS, r=3))
        for model, name in ((own, POLICY), (values, "critic")):
            found = {key: value for key, value in model.named_parameters() if "lora_" in key}
            theirs = self.shared.parameters(name)
            assert len(found) == len(theirs)
            with torch.no_grad():
                for parameter, value in zip(found.values(), theirs.values(), strict=True):
                    parameter.copy_(value)
        self.separate = (own.eval(), new_policy(tokenizer), Critic(values.eval()))


@pytest.fixture
def cast(tokenizer: Any, reward_model: PeftModel, folder: Path) -> Cast:
    return Cast(tokenizer, reward_model, folder)


def rollout(tokenizer: Any) -> Any:
    rows = [(PROMPTS[i], [40 + i, 41 + i, 42][: 1 + i % 3]) for i in range(5)]
    prompts = [tokenizer(prompt)["input_ids"] for prompt, _ in rows]
    cpu = torch.device("cpu")
    return pack(prompts, [ids for _, ids in rows], [0.0] * 5, {1}, tokenizer.pad_token_id, cpu)


def values_of(critic: Any, batch: Any) -> torch.Tensor:
    inputs = inputs_of(batch)
    return critic(input_ids=inputs.input_ids, before=inputs.before)


def test_a_saved_reward_model_scores_the_same(cast: Cast, tokenizer: Any, reward_model: PeftModel) -> None:
    scores = RewardModel(reward_model, tokenizer, max_length=None)(PROMPTS, COMPLETIONS)
    assert len(set(scores)) > 1
    found = RewardModel(cast.reward_model, tokenizer, max_length=None)(PROMPTS, COMPLETIONS)
    assert found == pytest.approx(scores, abs=1e-6)  # its adapter is added to the matrices first


def test_a_role_scores_the_responses_of_a_prompt_together(cast: Cast, tokenizer: Any) -> None:
    prompt = list(range(20, 40))
    rows = [[*prompt, *range(50, 50 + n), tokenizer.eos_token_id] for n in (1, 4, 2)] + [[*prompt[::-1], 60, 61]]
    together, apart = (
        RewardModel(cast.reward_model, tokenizer, max_length=None, shared_prefix=shared) for shared in (True, False)
    )
    assert together.score(rows) == pytest.approx(apart.score(rows), abs=1e-5)
    assert together.obstacle is None


def test_the_head_is_in_the_file_of_the_adapter(reward_model: PeftModel, folder: Path) -> None:
    assert has_head(Parent("reward", str(folder), None))
    head = load_file(folder / "adapter_model.safetensors")["base_model.model.score.weight"]
    assert torch.equal(head, reward_model.get_base_model().score.modules_to_save["default"].weight)


def test_log_probabilities_scores_and_values_are_those_of_four_models(
    cast: Cast, tokenizer: Any, reward_model: PeftModel
) -> None:
    """Merging a sum of adapters into the weights rounds once more: 1e-5 in float32."""
    batch = rollout(tokenizer)
    policy, reference, critic = cast.separate
    spread(policy, 8)
    with torch.no_grad():
        for mine, theirs in zip(cast.policy.own.values(), checkpoint.trainable(policy).values(), strict=True):
            mine.copy_(theirs)
        ours, theirs = response_logits(cast.policy, batch), response_logits(policy, batch)
        assert torch.allclose(ours.log_softmax(-1), theirs.log_softmax(-1), atol=1e-5)
        ours, theirs = response_logits(cast.reference, batch), response_logits(reference, batch)
        assert torch.equal(ours, theirs)
        assert not torch.allclose(response_logits(cast.policy, batch), ours, atol=1e-2)
        assert torch.allclose(values_of(cast.critic, batch), values_of(critic, batch), atol=1e-5)
        inputs = {key: value for key, value in model_inputs(batch).items() if key != "position_ids"}
        scores = cast.reward_model(**inputs).logits
        assert torch.allclose(scores, reward_model(**inputs).logits, atol=1e-5)


def test_an_update_is_that_of_four_models(cast: Cast, tokenizer: Any, reward_model: PeftModel) -> None:
    """Two minibatches, two epochs: rollout, scores, values, both losses, both optimizers. SGD, since Adam's first step
    has the size of the learning rate for any gradient, and so amplifies rounding."""
    stage = settings(**TINY | {"learning_rate": 0.05, "critic_learning_rate": 0.05, "max_grad_norm": 1e9})
    found = []
    for models, judge in (
        ((cast.policy, cast.reference, cast.critic), cast.reward_model),
        (cast.separate, reward_model),
    ):
        reward = RewardModel(judge, tokenizer, max_length=None)
        trainer = PPOTrainer(*models, tokenizer, reward, PROMPTS, stage, seed=0)
        trainer.learner.optimizers = {
            name: torch.optim.SGD(checkpoint.trainable(model).values(), lr=1.0)
            for name, model in trainer.learner.modules.items()
        }
        before = [value.detach().clone() for value in checkpoint.trainable(models[2]).values()]
        metrics = trainer.step(trainer.batch(0))
        trained = [list(checkpoint.trainable(model).values()) for model in (models[0], models[2])]
        assert all(not torch.equal(*pair) for pair in zip(before, trained[1], strict=True))
        found.append((metrics, trained))
    for metrics, _ in found:
        metrics.pop("val/clipfrac_avg")  # in the first minibatch the two branches are equal, and rounding decides
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-4)
    assert found[0][0]["policy/approxkl_avg"] > 1e-7
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert torch.allclose(one, other, atol=1e-5)


def test_the_parameters_of_a_role_are_those_it_trains(cast: Cast) -> None:
    policy, critic = set(cast.policy.parameters()), set(cast.critic.parameters())
    assert policy == set(cast.shared.parameters(POLICY).values())
    assert critic == {*cast.shared.parameters("critic").values(), cast.critic.view.classifier.score.weight}
    assert not policy & critic
    assert not list(cast.reference.parameters())
    assert not list(cast.reward_model.parameters())
    trained = {name for name, value in cast.shared.model.named_parameters() if value.requires_grad}
    assert trained == {*cast.shared.parameters(POLICY), *cast.shared.parameters("critic")}


def everything(cast: Cast) -> dict[str, torch.nn.Parameter]:
    heads = {f"{name} head": getattr(cast, name).view for name in ("reward_model",)}
    found = {name: view.score.weight for name, view in heads.items()}
    return (
        found | dict(cast.shared.model.named_parameters()) | {"critic head": cast.critic.view.classifier.score.weight}
    )


def reached(cast: Cast) -> set[str]:
    return {name for name, value in everything(cast).items() if value.grad is not None}


def test_the_gradient_of_a_role_reaches_its_own_parameters_and_no_others(cast: Cast, tokenizer: Any) -> None:
    batch = rollout(tokenizer)
    response_logits(cast.policy, batch).log_softmax(-1)[..., 3].sum().backward()
    assert reached(cast) == set(cast.shared.parameters(POLICY))
    cast.policy.zero_grad()
    assert not reached(cast)
    values_of(cast.critic, batch).sum().backward()
    assert reached(cast) == {*cast.shared.parameters("critic"), "critic head"}
    cast.critic.zero_grad()
    ids = batch.response_ids
    for frozen in (response_logits(cast.reference, batch), cast.reward_model(ids, torch.ones_like(ids)).logits):
        assert not frozen.requires_grad


def test_other_roles_may_be_called_before_a_gradient_arrives(cast: Cast, tokenizer: Any) -> None:
    """peft's set_adapter would drop the gradients of adapters that are inactive during the backward pass."""
    batch = rollout(tokenizer)
    response_logits(cast.policy, batch).log_softmax(-1)[..., 3].sum().backward()
    values_of(cast.critic, batch).sum().backward()
    expected = {name: value.grad.clone() for name, value in everything(cast).items() if value.grad is not None}
    cast.policy.zero_grad(), cast.critic.zero_grad()
    loss = response_logits(cast.policy, batch).log_softmax(-1)[..., 3].sum()
    values = values_of(cast.critic, batch).sum()
    with torch.no_grad():
        response_logits(cast.reference, batch)
        cast.reward_model(batch.response_ids, torch.ones_like(batch.response_ids))
        generate(cast.policy, tokenizer, PROMPTS[:2], max_prompt_length=8, max_response_length=3, temperature=1.0,
                 seed=0, batch_size=2)  # fmt: skip
    (loss + values).backward()
    assert reached(cast) == set(expected)
    for name, value in everything(cast).items():
        assert name not in expected or torch.equal(value.grad, expected[name])


def test_the_previous_adapters_are_restored(cast: Cast) -> None:
    shared = cast.shared
    assert shared.worn == (POLICY,)
    with shared.wearing(("reward",)):
        with shared.wearing(()):
            assert all(not layer.active_adapters for layer in shared._layers)
        assert all(layer.active_adapters == ["reward"] for layer in shared._layers)
    with pytest.raises(RuntimeError), shared.wearing(("reward", "critic")):
        raise RuntimeError
    assert all(layer.active_adapters == [POLICY] for layer in shared._layers)


def test_no_part_of_a_role_can_be_called_without_its_adapters(cast: Cast, tokenizer: Any) -> None:
    with pytest.raises(AttributeError, match="call the role"):
        values_of(Critic(cast.reward_model), rollout(tokenizer))


def test_an_adapter_that_comes_later_changes_nothing_of_the_others(cast: Cast, tokenizer: Any, folder: Path) -> None:
    batch = rollout(tokenizer)
    before = response_logits(cast.policy, batch), values_of(cast.critic, batch)
    own = set(cast.policy.parameters()) | set(cast.critic.parameters())
    cast.shared.load("second", folder)
    cast.shared.add("third", lora())
    assert torch.equal(response_logits(cast.policy, batch), before[0])
    assert torch.equal(values_of(cast.critic, batch), before[1])
    assert {value for value in cast.shared.model.parameters() if value.requires_grad} <= own


def test_dropout_is_off_whatever_mode_a_role_is_put_in(tokenizer: Any, folder: Path) -> None:
    shared = SharedBase(get_peft_model(new_policy(tokenizer), lora(lora_dropout=0.5)))
    head = shared.load("reward", folder)
    policy, judge = spread_role(shared.language_model([POLICY], train=True)), shared.classifier(["reward"], head)
    batch = rollout(tokenizer)
    expected = response_logits(policy, batch)
    for role in (policy, judge):
        role.train()
    assert torch.equal(response_logits(policy, batch), expected)
    assert not any(module.training for module in shared.model.modules())


def spread_role(role: Role) -> Role:
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in role.parameters():
            parameter.normal_(std=0.3)
    return role


def test_a_checkpoint_holds_what_the_two_learners_train(cast: Cast, tmp_path: Path) -> None:
    modules = {"policy": cast.policy, "critic": cast.critic}
    optimizers = {name: torch.optim.AdamW(checkpoint.trainable(module).values()) for name, module in modules.items()}
    spread_role(cast.policy), spread_role(cast.critic)
    checkpoint.save(tmp_path, modules, optimizers, 1, {})
    place = tmp_path / "update-1"
    policy, critic = load_file(place / "policy.safetensors"), load_file(place / "critic.safetensors")
    assert len(policy) == len(cast.shared.parameters(POLICY))
    assert len(critic) == len(cast.shared.parameters("critic")) + 1
    assert all("/default/" in name for name in policy)
    assert all("/critic/" in name or "score" in name for name in critic)
    expected = weights(cast.policy), weights(cast.critic)
    for module in modules.values():
        for parameter in module.parameters():
            parameter.data.zero_()
    checkpoint.load(tmp_path, modules, optimizers)
    for module, before in zip(modules.values(), expected, strict=True):
        assert all(torch.equal(value, before[name]) for name, value in weights(module).items())
        assert all(value.abs().sum() > 0 for value in module.parameters())


def test_moving_a_role_moves_the_base_too(cast: Cast, tokenizer: Any) -> None:
    """Tested with another dtype instead of another device."""
    own = list(cast.policy.parameters())
    cast.critic.to(torch.float64)
    batch = rollout(tokenizer)
    assert response_logits(cast.reference, batch).dtype is torch.float64
    assert all(mine is theirs for mine, theirs in zip(own, cast.shared.parameters(POLICY).values(), strict=True))
    assert all(mine is theirs for mine, theirs in zip(own, cast.policy.parameters(), strict=True))


def test_in_bfloat16_the_head_and_the_adapters_are_float32(tokenizer: Any, folder: Path) -> None:
    """A learning rate of 1e-5 is less than half a unit in the last place of most bfloat16 numbers."""
    base = new_policy(tokenizer).to(torch.bfloat16)
    shared = SharedBase(get_peft_model(base, lora()))
    head = shared.load("reward", folder)
    shared.add("critic", lora())
    critic = shared.critic(["reward", "critic"], head)
    assert {value.dtype for value in critic.parameters()} == {torch.float32}
    assert shared.causal.dtype is torch.bfloat16
    assert values_of(critic, rollout(tokenizer)).isfinite().all()


def test_an_adapter_on_another_base_is_refused(tokenizer: Any, tmp_path: Path, folder: Path) -> None:
    shared = SharedBase(get_peft_model(new_policy(tokenizer), lora(target_modules=["q_proj"])))
    known = load_file(folder / "adapter_model.safetensors")
    for extra, name in (
        ({"base_model.model.model.layers.7.mlp.up_proj.lora_A.weight": torch.ones(2, 16)}, "layers.7"),
    ):
        (tmp_path / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
        save_file(known | extra, tmp_path / "adapter_model.safetensors")
        with pytest.raises(ModelError, match=f"is not an adapter on this base: .*{name}"):
            shared.load("wrong", tmp_path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"r": 9, "use_rslora": True, "rank_pattern": {"q_proj": 3}}, True),
        ({"use_dora": True}, False),
        ({"bias": "all"}, False),
        ({"modules_to_save": ["score", "embed_tokens"]}, False),
        ({"init_lora_weights": "pissa"}, False),
        ({"trainable_token_indices": [1]}, False),
    ],
)
def test_only_plain_sums_of_matrices_can_be_combined(
    folder: Path, tmp_path: Path, changes: dict[str, Any], expected: bool
) -> None:
    stored = json.loads((folder / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(stored | changes))
    assert adds_up(Parent("policy", str(tmp_path), None)) is expected
    assert not has_head(Parent("policy", str(tmp_path), None))


SMALL = {"vocab_size": 32, "pad_token_id": 0}
LLAMA_LIKE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2} | SMALL


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        (MistralConfig(num_key_value_heads=2, **LLAMA_LIKE), True),
        (Qwen3Config(num_key_value_heads=2, head_dim=8, **LLAMA_LIKE), True),
        (GPTNeoXConfig(**LLAMA_LIKE), True),
        (GPT2Config(n_embd=16, n_layer=1, n_head=2, **SMALL), True),
        (CTRLConfig(n_embd=16, n_layer=1, n_head=2, dff=16, **SMALL), False),
    ],
    ids=lambda value: getattr(value, "model_type", value),
)
def test_which_architectures_can_share(architecture: Any, expected: bool) -> None:
    assert shares(architecture) is expected


@pytest.mark.parametrize("kind", [GPT2Config, GPTNeoXConfig], ids=["gpt2", "gpt_neox"])
def test_other_architectures_give_gradients_only_to_the_critic(kind: Callable[..., Any]) -> None:
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2} if kind is GPT2Config else LLAMA_LIKE
    base = AutoModelForCausalLM.from_config(kind(**SMALL | sizes))
    shared = SharedBase(get_peft_model(base, lora(fan_in_fan_out=kind is GPT2Config)))
    shared.add("critic", lora(fan_in_fan_out=kind is GPT2Config))
    critic = shared.critic(["critic"], torch.ones(1, 16))
    ids = torch.arange(1, 13).view(2, 6)
    critic(ids, torch.tensor([3, 4, 9, 10])).sum().backward()
    reached = {name for name, value in shared.model.named_parameters() if value.grad is not None}
    assert reached
    assert reached == set(shared.parameters("critic"))
