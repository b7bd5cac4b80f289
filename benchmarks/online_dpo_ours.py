"""Our side of benchmarks.online_dpo: the sampler, and the DPO trainer of stage=dpo with shared prompts."""

import tempfile
from collections.abc import Callable
from typing import Any

import ppo_models
from datasets import Dataset
from sides import serve
from trl import DPOConfig

from rlhf.hardware.memory import keep_freed
from rlhf.modeling.generation import generate
from rlhf.stages.dpo import ReadyDPOTrainer


def make(spec: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    keep_freed()
    tokenizer, prompts = ppo_models.tokenizer(spec), ppo_models.prompts(spec)
    policy, reference = ppo_models.policy(spec), ppo_models.policy(spec)
    arguments = DPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=spec["batch"], num_train_epochs=1, beta=0.1,
        learning_rate=spec["learning_rate"], use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
        activation_checkpointing=False, save_strategy="no", logging_strategy="no", max_length=None,
    )  # fmt: skip
    ids = tokenizer(prompts)["input_ids"]
    asked = [prompt for prompt in prompts for _ in range(2)]

    def step(number: int) -> dict[str, Any]:
        responses = generate(
            policy, tokenizer, asked, max_prompt_length=None, max_response_length=spec["length"],
            temperature=spec["temperature"], seed=number, batch_size=len(asked),
        )  # fmt: skip
        scores = ppo_models.letters(asked, [response.text for response in responses])
        rows = []
        for i, prompt in enumerate(ids):
            best, worst = sorted((2 * i, 2 * i + 1), key=lambda one: -scores[one])
            sides = {"chosen_ids": responses[best].ids, "rejected_ids": responses[worst].ids}
            rows.append({"prompt_ids": prompt} | sides)
        trainer = ReadyDPOTrainer(
            reference_kept=None, shared=True, model=policy, ref_model=reference, args=arguments,
            train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        )  # fmt: skip
        with trainer.sharing():
            trainer.train()
        drawn = sum(len(response.ids) for response in responses)
        tokens = 2 * sum(map(len, ids)) + drawn
        return {"samples": len(asked), "tokens": tokens, "response": drawn / len(asked)}

    return step


if __name__ == "__main__":
    serve(make)
