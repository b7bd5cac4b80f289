"""A residual head of style: while a reward model is trained, it explains the labels as far as style does.

    ℓ = -log σ( r(x, y_c) - r(x, y_r) + wᵀ (f(y_c) - f(y_r)) ),   f_k(y) = log(1 + n_k(y))

n are the tokens, headers, bold parts and list items of a response. The weights w start at zero and learn together with
the scores r; then they are dropped. It is the ranking loss of ODIN (Chen et al. 2024, https://arxiv.org/abs/2402.07319)
for the sum of a quality head and a length head that is discarded; product of experts (Shen et al. 2023,
https://arxiv.org/abs/2310.05199) trains and drops an expert of the bias in the same way. Their heads read text, so that
ODIN has to keep them apart by correlation losses. Here the second head is linear in the style, as in the regression of
rlhf.evaluation.reward_card.style.py, and cannot explain anything else.

w is a parameter of the model's head: adapters, processes, shards and checkpoints treat it as they treat the head.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rlhf.data.render import text_ids
from rlhf.evaluation.reward_card.pairs import side
from rlhf.evaluation.reward_card.style import STYLE, counts

if TYPE_CHECKING:
    from datasets import Dataset

WEIGHTS = "residual"  # the name of w in the head
BATCH = 1000  # pairs that are tokenized at once


def differences(pairs: "Dataset", tokenizer: Any, names: Sequence[str]) -> list[list[float]]:
    """Return f(chosen) - f(rejected) of each pair, for the styles ``names``."""
    found: list[list[float]] = []
    for start in range(0, len(pairs), BATCH):
        rows = pairs.select(range(start, min(start + BATCH, len(pairs))))
        chosen, rejected = (styles(side(rows, name).completions, tokenizer, names) for name in ("chosen", "rejected"))
        found += (chosen - rejected).tolist()
    return found


def styles(texts: Sequence[str], tokenizer: Any, names: Sequence[str]) -> np.ndarray:
    """Return f of each response (N, k): log(1 + number), for the styles ``names``."""
    tokens = text_ids(tokenizer, texts, add_special_tokens=False)
    numbers = [[len(ids), *counts(text)[1:]] for ids, text in zip(tokens, texts, strict=True)]
    return np.log1p(np.array(numbers, dtype=float)[:, [STYLE.index(name) for name in names]])


def attach(model: Any, count: int) -> None:
    """Add w (count,), zeros, to the head of a reward model, before an adapter copies the head."""
    *_, head = (module for name, module in model.named_children() if name != model.base_model_prefix)
    head.register_parameter(WEIGHTS, nn.Parameter(torch.zeros(count, device=next(head.parameters()).device)))


class Residual:
    """The residual head of a model that is trained, with or without an adapter, until ``drop``."""

    def __init__(self, model: nn.Module, names: Sequence[str], rate: float):
        self.names, self.rate = names, rate
        [self.head] = (head for head in _holders(model) if head.residual.requires_grad)
        self.hook = self.head.register_forward_hook(self._read)
        self.style: Tensor | None = None  # Δf (B, k) of the pairs of the next forward pass
        self.shift = self.values = torch.empty(0)  # wᵀ Δf (B,) and w (k,) of the last one

    def _read(self, head: Any, inputs: Any, output: Any) -> None:
        """Compute wᵀ Δf within the forward pass, the only time at which the weights of shards are whole."""
        if self.style is not None:
            self.shift, self.values = (self.style * head.residual).sum(-1), head.residual.detach().clone()

    def group(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the learning rate of w in a new optimizer, without weight decay."""
        own = self.head.residual
        for group in optimizer.param_groups:
            group["params"] = [one for one in group["params"] if one is not own]
        optimizer.add_param_group({"params": [own], "lr": self.rate, "weight_decay": 0.0})

    def weights(self) -> dict[str, float]:
        """Return w of the last forward pass in log-odds per doubling of 1 + n, by name."""
        doubled = (math.log(2) * self.values).tolist()
        return {f"{WEIGHTS}/{name}": value for name, value in zip(self.names, doubled, strict=True)}

    def drop(self, model: nn.Module) -> None:
        """Remove w from the model and from the copy of its head that an adapter keeps."""
        self.hook.remove()
        for head in list(_holders(model)):
            delattr(head, WEIGHTS)


def _holders(model: nn.Module) -> Iterator[Any]:
    return (module for module in model.modules() if WEIGHTS in dict(module.named_parameters(recurse=False)))


def summary(metrics: dict[str, float]) -> str:
    """Return w and the held-out accuracy with and without it, for the terminal."""
    start = f"eval/{WEIGHTS}/"
    found = ", ".join(
        f"{key.removeprefix(start)} {value:+.2f}" for key, value in metrics.items() if key.startswith(start)
    )
    accuracy = f"{metrics['eval/accuracy_with_residual']:.3f} with it and {metrics['eval/accuracy']:.3f} without"
    return f"the residual head is dropped; log-odds per doubling: {found}; held-out accuracy {accuracy}"
