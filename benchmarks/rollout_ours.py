"""Our side of benchmarks.rollout: generation.sample, which returns log-probabilities, and the critic's pass."""

from collections.abc import Callable
from typing import Any

import ppo_models
import torch
from sides import serve

from rlhf.modeling.generation import sample, seeded
from rlhf.ppo import Critic
from rlhf.ppo.rollout import inputs_of, micro_batches, pack, values_of


def make(spec: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    tokenizer, policy = ppo_models.tokenizer(spec), ppo_models.policy(spec).eval()
    critic = Critic(ppo_models.classifier(spec).eval())
    rows = [tokenizer(prompt)["input_ids"] for prompt in ppo_models.prompts(spec)]
    ends, pad = {tokenizer.eos_token_id}, tokenizer.pad_token_id

    @torch.no_grad()
    def step(number: int) -> dict[str, Any]:
        with seeded(number):
            found = sample(policy, rows, ends, pad, spec["length"], spec["temperature"])
        responses = [row.ids for row in found]
        rollout = pack(rows, responses, [0.0] * len(rows), ends, pad, policy.device)
        for index in micro_batches(rollout, None, 2048):
            part = rollout.rows(index)
            values_of(critic, part, inputs_of(part))
        drawn = sum(map(len, responses))
        return {"samples": len(rows), "tokens": drawn + sum(map(len, rows)), "response": drawn / len(rows)}

    return step


if __name__ == "__main__":
    serve(make)
