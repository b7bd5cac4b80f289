"""The peer of benchmarks.online_dpo: TRL's experimental OnlineDPOTrainer."""

import os
import tempfile
import threading
from collections.abc import Callable
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import ppo_models
from datasets import Dataset
from ppo_trl_turns import Turns
from sides import serve
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer


def make(spec: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    tokenizer, prompts = ppo_models.tokenizer(spec), ppo_models.prompts(spec)
    steps = len(prompts) // spec["batch"]
    arguments = OnlineDPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=spec["batch"], max_steps=1000 * steps, beta=0.1,
        learning_rate=spec["learning_rate"], temperature=spec["temperature"], max_new_tokens=spec["length"],
        max_length=2048, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, activation_checkpointing=False,
        save_strategy="no", logging_strategy="no", train_sampling_strategy="sequential",
    )  # fmt: skip
    lengths: list[int] = []

    def reward(prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.extend(sum(id != ppo_models.PAD for id in ids) for ids in completion_ids)  # padded to one length
        return ppo_models.letters(prompts, completions)

    turns = Turns()
    trainer = OnlineDPOTrainer(
        ppo_models.policy(spec), reward_funcs=reward, args=arguments, processing_class=tokenizer, callbacks=[turns],
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
    )  # fmt: skip
    prompt_tokens = 2 * sum(len(tokenizer(prompt)["input_ids"]) for prompt in prompts)
    threading.Thread(target=turns.run, args=(trainer.train,), daemon=True).start()

    def step(number: int) -> dict[str, Any]:
        lengths.clear()
        for _ in range(steps):
            turns.next()
        return {
            "samples": len(lengths), "tokens": prompt_tokens + sum(lengths), "response": sum(lengths) / len(lengths)
        }  # fmt: skip

    return step


if __name__ == "__main__":
    serve(make)
