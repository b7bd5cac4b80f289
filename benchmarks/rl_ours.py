"""Our side of benchmarks.rl: an iteration of rlhf.ppo.PPOTrainer without a critic."""

from collections.abc import Callable
from typing import Any

import ppo_models
from sides import serve

from rlhf.ppo import PPOTrainer, settings


def make(spec: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    tokenizer, prompts, samples = ppo_models.tokenizer(spec), ppo_models.prompts(spec), spec["samples"]
    stage = settings(
        updates=1000, batch_size=spec["rows"], samples=samples, advantage=spec["advantage"], minibatches=1, epochs=1,
        learning_rate=spec["learning_rate"], temperature=spec["temperature"], max_prompt_length=2048,
        max_response_length=spec["length"], missing_eos="keep", **spec.get("stage", {}),
    )  # fmt: skip
    trainer = PPOTrainer(
        ppo_models.policy(spec), ppo_models.policy(spec), None, tokenizer, ppo_models.letters, prompts, stage, seed=0,
        cpu=spec.get("device", "cpu") == "cpu", autocast=spec.get("autocast", False),
        shared_prefix=spec["shared_prefix"],
    )  # fmt: skip
    prompt_tokens = samples * sum(len(tokenizer(prompt)["input_ids"]) for prompt in prompts)

    def step(number: int) -> dict[str, Any]:
        response = trainer.step(trainer.batch(number))["val/response_length"]
        rows = samples * len(prompts)
        return {"samples": rows, "tokens": prompt_tokens + round(response * rows), "response": response}

    return step


if __name__ == "__main__":
    serve(make)
