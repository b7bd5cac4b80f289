"""The peer of benchmarks.ppo: an iteration of trl.experimental.ppo.PPOTrainer of trl 1.12.0."""

import tempfile
import threading
from collections.abc import Callable
from typing import Any

import ppo_models
import torch
from datasets import Dataset
from ppo_trl_turns import Turns
from sides import serve
from trl.experimental.ppo import PPOConfig, PPOTrainer


def make(spec: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    tokenizer = ppo_models.tokenizer(spec)
    tokenizer.padding_side = "left"
    rows = [{"input_ids": tokenizer(prompt)["input_ids"]} for prompt in ppo_models.prompts(spec)]
    micro = spec["micro_rows"]
    settings = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=spec["rows"] // micro,
        num_mini_batches=spec["minibatches"],
        num_ppo_epochs=spec["epochs"],
        total_episodes=spec["rows"] * 1000,
        response_length=spec["length"],
        stop_token="eos",
        temperature=spec["temperature"],
        learning_rate=spec["learning_rate"],
        local_rollout_forward_batch_size=spec.get("read_rows", spec["rows"]),
        num_sample_generations=0,
        gradient_checkpointing=False,
        bf16=spec.get("autocast", False),
        use_cpu=spec.get("device", "cpu") == "cpu",
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
    )
    turns = Turns()
    trainer = PPOTrainer(
        settings, tokenizer, ppo_models.policy(spec), ppo_models.policy(spec), ppo_models.classifier(spec),
        Dataset.from_list(rows), ppo_models.classifier(spec), eval_dataset=Dataset.from_list(rows), callbacks=[turns],
    )  # fmt: skip
    prompt_tokens = sum(len(row["input_ids"]) for row in rows)
    responses = counted(trainer)
    threading.Thread(target=turns.run, args=(trainer.train,), daemon=True).start()

    def step(number: int) -> dict[str, Any]:
        responses.clear()
        turns.next()
        useful = prompt_tokens + sum(responses)
        return {"samples": len(rows), "tokens": useful, "response": sum(responses) / len(responses)}

    return step


def counted(trainer: PPOTrainer) -> list[int]:
    """Return a list that collects the length of each response, with EOS, as cut by ``truncate_response``."""
    from trl.experimental.ppo import ppo_trainer

    found: list[int] = []
    cut = ppo_trainer.truncate_response

    def noted(stop: int, pad: int, responses: torch.Tensor) -> torch.Tensor:
        result = cut(stop, pad, responses)
        found.extend((result != pad).sum(-1).tolist())
        return result

    ppo_trainer.truncate_response = noted
    return found


if __name__ == "__main__":
    serve(make)
