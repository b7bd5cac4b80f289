"""The peer of benchmarks.rl: an iteration of TRL's GRPOTrainer or RLOOTrainer."""

import tempfile
import threading
import warnings
from collections.abc import Callable
from typing import Any

import ppo_models
from datasets import Dataset
from ppo_trl_turns import Turns
from sides import serve
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

KINDS = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}


def make(spec: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    tokenizer, prompts, samples = ppo_models.tokenizer(spec), ppo_models.prompts(spec), spec["samples"]
    folder, on_cpu = tempfile.mkdtemp(), spec.get("device", "cpu") == "cpu"
    ppo_models.policy(spec).save_pretrained(folder)  # TRL loads the reference from there
    trainer_of, settings_of = KINDS[spec["advantage"]]
    warnings.filterwarnings("ignore", ".*use_liger_kernel", FutureWarning)
    settings = settings_of(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=len(prompts) * samples, num_generations=samples,
        max_steps=1000, num_iterations=1, beta=0.05, max_completion_length=spec["length"], report_to="none",
        temperature=spec["temperature"], learning_rate=spec["learning_rate"], use_cpu=on_cpu,
        bf16=spec.get("autocast", False), use_liger_kernel=spec.get("liger", False),
        activation_checkpointing=False, disable_tqdm=True, save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    policy = ppo_models.policy(spec)
    policy.config._name_or_path = folder
    lengths: list[int] = []

    def reward(prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return ppo_models.letters(prompts, completions)

    rows = Dataset.from_list([{"prompt": prompt} for prompt in prompts])
    turns = Turns()
    trainer = trainer_of(
        policy, reward, args=settings, train_dataset=rows, processing_class=tokenizer, callbacks=[turns]
    )
    prompt_tokens = samples * sum(len(tokenizer(prompt)["input_ids"]) for prompt in prompts)
    threading.Thread(target=turns.run, args=(trainer.train,), daemon=True).start()

    def step(number: int) -> dict[str, Any]:
        lengths.clear()
        turns.next()
        useful = prompt_tokens + sum(lengths)
        return {"samples": len(lengths), "tokens": useful, "response": sum(lengths) / len(lengths)}

    return step


if __name__ == "__main__":
    serve(make)
