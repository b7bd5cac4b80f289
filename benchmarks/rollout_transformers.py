"""The other side of benchmarks.rollout: model.generate with scores, their log-probabilities, and a pass for values."""

from collections.abc import Callable
from typing import Any

import ppo_models
import torch
from sides import serve
from transformers import GenerationConfig


def make(spec: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    tokenizer, policy = ppo_models.tokenizer(spec), ppo_models.policy(spec).eval()
    critic = ppo_models.classifier(spec).eval()
    tokenizer.padding_side = "left"
    batch = tokenizer(ppo_models.prompts(spec), return_tensors="pt", padding=True)
    ids, mask = (batch[name].to(policy.device) for name in ("input_ids", "attention_mask"))
    end = tokenizer.eos_token_id
    settings = GenerationConfig(
        max_new_tokens=spec["length"], do_sample=True, temperature=spec["temperature"], top_k=0, top_p=1.0,
        eos_token_id=end, pad_token_id=tokenizer.pad_token_id, return_dict_in_generate=True, output_scores=True,
        cache_implementation=spec.get("cache"),
    )  # fmt: skip
    policy.generation_config = settings

    @torch.no_grad()
    def step(number: int) -> dict[str, Any]:
        torch.manual_seed(number)
        output = policy.generate(input_ids=ids, attention_mask=mask)
        drawn = output.sequences[:, ids.shape[1] :]
        scores = torch.stack(output.scores, dim=1)
        scores.log_softmax(-1).gather(-1, drawn[..., None])
        ended = (drawn == end).cumsum(-1)
        kept = ended - (drawn == end).long() == 0  # up to and including EOS
        whole = torch.cat([mask, kept.long()], dim=1)
        positions = (whole.cumsum(-1) - 1).clamp(min=0)
        hidden = critic.model(
            input_ids=output.sequences, attention_mask=whole, position_ids=positions, use_cache=False
        ).last_hidden_state
        critic.score(hidden[:, ids.shape[1] - 1 : -1])
        tokens = int(kept.sum())
        return {"samples": len(ids), "tokens": tokens + int(mask.sum()), "response": tokens / len(ids)}

    return step


if __name__ == "__main__":
    serve(make)
