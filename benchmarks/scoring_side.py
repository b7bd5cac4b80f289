"""One side of benchmarks.scoring: a reward model's scores, by rlhf.rewards or by transformers' pipeline."""

from typing import Any

import torch
from sides import Step, serve
from transformers import LlamaConfig, LlamaForSequenceClassification, pipeline

from rlhf.modeling.from_scratch import new_tokenizer
from rlhf.rewards import RewardModel

LONGEST = 4096


def texts(spec: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return prompts, each ``responses`` times, and their responses, as random words of one token each."""
    draw = torch.Generator().manual_seed(0)

    def words(bounds: list[int]) -> str:
        count = int(torch.randint(bounds[0], bounds[1] + 1, (), generator=draw))
        letters = torch.randint(26, (count,), generator=draw).tolist()
        return "".join(f" {chr(97 + letter)}" for letter in letters)

    prompts = [words(spec["prompt"]) for _ in range(spec["prompts"])]
    rows = [prompt for prompt in prompts for _ in range(spec["responses"])]
    return rows, [words(spec["response"]) for _ in rows]


def make(spec: dict[str, Any]) -> Step:
    rows, responses = texts(spec)
    tokenizer = new_tokenizer([f" {chr(97 + n)}" for n in range(26)] * 9, 300, "")
    tokenizer.chat_template = None
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=spec["hidden"], intermediate_size=4 * spec["hidden"],
        num_hidden_layers=spec["layers"], num_attention_heads=spec["hidden"] // 64 or 1, num_labels=1,
        max_position_embeddings=LONGEST, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = LlamaForSequenceClassification(config).eval()
    count = sum(len(ids) for ids in tokenizer([a + b for a, b in zip(rows, responses, strict=True)])["input_ids"])
    if spec["scorer"] == "ours":
        reward = RewardModel(model, tokenizer, max_length=LONGEST)

        def scores() -> list[float]:
            return reward(rows, responses)
    else:
        whole = [f"{prompt}{response}{tokenizer.eos_token}" for prompt, response in zip(rows, responses, strict=True)]
        pipe = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
        # The arguments of RewardBench's scripts/run_rm.py.
        given = {"batch_size": spec["batch"], "function_to_apply": "none", "truncation": True, "padding": True}

        def scores() -> list[float]:
            return [found["score"] for found in pipe(whole, max_length=LONGEST, **given)]

    def step(number: int) -> dict[str, Any]:
        return {"samples": len(rows), "tokens": count, "scores": scores()}

    return step


if __name__ == "__main__":
    serve(make)
