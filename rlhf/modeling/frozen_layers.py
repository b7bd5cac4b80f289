"""The lowest layers, if no adapter changes them: their states, computed once, serve all later passes over the tokens.

With ``adapter.layers`` only the upper layers have an adapter. The lower ones compute the same for the policy and its
reference, before and after each step.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn


class _EnoughError(Exception):
    """Ends a forward pass after the layers that were asked for."""


def layers_of(model: Any) -> list[nn.Module]:
    """Return the decoder layers of transformers' ``model``, lowest first; empty if they are not one list."""
    count = getattr(model.config, "num_hidden_layers", 0)
    parts = model.base_model.modules()  # lazy: with many adapters, a walk over all of them takes a tenth of an update
    return next((list(part) for part in parts if isinstance(part, nn.ModuleList) and len(part) == count), [])


def unchanged(model: Any, plain: Any) -> int:
    """Return how many of the lowest layers neither train nor have an adapter of ``model``; at least one remains above.

    ``plain`` is transformers' model inside ``model``, which is a PeftModel or a role on a shared base.
    """
    names = {*(model.active_adapters if isinstance(model, PeftModel) else getattr(model, "wears", ()))}
    layers, count = layers_of(plain), 0
    if any(parameter.requires_grad for parameter in plain.get_input_embeddings().parameters()):
        return 0
    for layer in layers[:-1]:
        if any(
            value.requires_grad or ("lora_" in key and names.intersection(key.split(".")))
            for key, value in layer.named_parameters()
        ):
            break
        count += 1
    return count


@torch.no_grad()
def states_after(plain: Any, count: int, **inputs: Any) -> Tensor:
    """Return the hidden states (B, L, h) after the lowest ``count`` layers; the layers above are not computed."""
    found: list[Tensor] = []

    def stop(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.append(arguments[0] if arguments else named["hidden_states"])
        raise _EnoughError

    handle = layers_of(plain)[count].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        plain.base_model(use_cache=False, **inputs)
    except _EnoughError:
        pass
    finally:
        handle.remove()
    return found[0]


@contextmanager
def starting_from(plain: Any, states: Tensor | None, count: int) -> Generator[None]:
    """Within the context, let passes start from ``states`` after ``count`` layers instead of computing these layers."""
    lower: list[Any] = [] if states is None else layers_of(plain)[:count]
    for layer in lower:
        layer.forward = lambda *arguments, **named: states
    try:
        yield
    finally:
        for layer in lower:
            del layer.forward
