"""One side of benchmarks.logprobs: log-probabilities and entropies from hidden states, from logits, or by TRL."""

from typing import Any

import torch
from sides import Step, serve
from trl.kernels import ChunkedLogProbFunction

from rlhf.modeling.logprobs import token_logprobs_and_entropies
from rlhf.preference.head import score


def make(spec: dict[str, Any]) -> Step:
    torch.manual_seed(0)
    head = torch.nn.Linear(spec["hidden"], spec["vocabulary"], bias=False)
    states = torch.randn(spec["rows"], spec["hidden"], requires_grad=spec["backward"])
    targets = torch.randint(spec["vocabulary"], (spec["rows"],))

    def step(number: int) -> dict[str, Any]:
        states.grad = head.weight.grad = None
        with torch.set_grad_enabled(spec["backward"]):
            if spec["kernel"] == "hidden":
                logprobs = score(head, states, targets, ("log_probs", "entropy"))["log_probs"]
            elif spec["kernel"] == "trl":
                logprobs, *_ = ChunkedLogProbFunction.apply(
                    states, head.weight, None, targets, 1.0, 32768, None, 1.0, ("entropy",)
                )
            else:
                logprobs, _ = token_logprobs_and_entropies(head(states), targets, 1.0)
        if spec["backward"]:
            logprobs.sum().backward()
        return {"samples": spec["rows"], "tokens": spec["rows"], "sum": logprobs.sum().item()}

    return step


if __name__ == "__main__":
    serve(make)
