"""Our side of benchmarks.ppo: an iteration of rlhf.ppo.PPOTrainer, on four full models or on one base in four roles."""

from collections.abc import Callable
from typing import Any

import ppo_models
import torch
from sides import serve

from rlhf.ppo import Critic, PPOTrainer, ValueHead, settings
from rlhf.rewards import RewardModel

LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}


def make(spec: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    tokenizer = ppo_models.tokenizer(spec)
    policy, reference, critic, judge = one_base(spec) if spec.get("share_base_model") else four_models(spec)
    if spec.get("head"):
        critic = ValueHead(policy.config.hidden_size)
    prompts = ppo_models.prompts(spec)
    stage = settings(
        updates=1000,
        batch_size=spec["rows"],
        minibatches=spec["minibatches"],
        epochs=spec["epochs"],
        learning_rate=spec["learning_rate"],
        critic_learning_rate=spec["learning_rate"],
        temperature=spec["temperature"],
        max_prompt_length=2048,
        max_response_length=spec["length"],
        missing_eos="keep",
        **spec.get("stage", {}),
    )
    trainer = PPOTrainer(
        policy, reference, critic, tokenizer, RewardModel(judge, tokenizer, max_length=None), prompts, stage, seed=0,
        cpu=spec.get("device", "cpu") == "cpu", autocast=spec.get("autocast", False),
    )  # fmt: skip
    prompt_tokens = sum(len(tokenizer(prompt)["input_ids"]) for prompt in prompts)

    def step(number: int) -> dict[str, Any]:
        found = trainer.step(trainer.batch(number))
        response = found["val/response_length"]
        return {"samples": len(prompts), "tokens": prompt_tokens + round(response * len(prompts)), "response": response}

    return step


def four_models(spec: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    policy, reference = ppo_models.policy(spec), ppo_models.policy(spec)
    critic = None if spec.get("head") else Critic(ppo_models.classifier(spec))
    return policy, reference, critic, ppo_models.classifier(spec).requires_grad_(False)


def one_base(spec: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    from peft import LoraConfig, TaskType, get_peft_model

    from rlhf.ppo.shared_base import POLICY, SharedBase

    torch.manual_seed(2)
    policy = ppo_models.policy(spec)
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, **LORA | upper(policy, spec.get("upper")))
    shared = SharedBase(get_peft_model(policy, config))
    for name in ("reward",) if spec.get("head") else ("reward", "critic"):
        shared.add(name, config)
    head = torch.randn(1, shared.causal.config.hidden_size) * 0.02
    policy, reference = shared.language_model([POLICY], train=True), shared.language_model([])
    critic = None if spec.get("head") else shared.critic(["reward", "critic"], head)
    return policy, reference, critic, shared.classifier(["reward"], head)


def upper(model: Any, share: float | None) -> dict[str, Any]:
    """Return the fields of an adapter on the upper ``share`` of the layers."""
    if share is None:
        return {}
    layers = model.config.num_hidden_layers
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return {"target_modules": modules, "layers_to_transform": [*range(layers - max(round(share * layers), 1), layers)]}


if __name__ == "__main__":
    serve(make)
