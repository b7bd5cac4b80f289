"""Forward passes over prompts and responses that compute only the outputs that PPO reads.

A row is a prompt and its response without a gap. Padding is on the right, invisible to causal attention, so mask and
positions are not needed. Logits, values, and the parts of the last layer that treat each token separately are computed
only at the positions before response tokens.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rlhf.hardware.device import widest
from rlhf.modeling.frozen_layers import starting_from, unchanged
from rlhf.modeling.logprobs import token_logprobs_and_entropies


class Rows(NamedTuple):
    """B rows of at most L tokens, and the indices, flattened to B · L, of the N states before response tokens.

    If rows share their prompts, they are one row of L tokens, and ``extra`` are the model's further inputs. ``states``
    are those after the layers below all adapters (rlhf.modeling.frozen_layers), if they are known.
    """

    input_ids: Tensor  # (B, L)
    before: Tensor  # (N,)
    extra: Mapping[str, Any] = MappingProxyType({})
    states: Tensor | None = None  # (B, L, h)


def rows(prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, mask: Tensor) -> Rows:
    """Return rows from prompts (B, P), padded on the left, and responses (B, T), padded on the right."""
    kept = torch.cat([prompt_mask, mask], dim=1)
    length = int(kept.sum(-1).max())
    row, _ = kept.nonzero(as_tuple=True)
    place = (kept.cumsum(-1) - 1)[kept]
    ids = prompt_ids.new_zeros(len(mask), length)
    ids[row, place] = torch.cat([prompt_ids, response_ids], dim=1)[kept]
    row, column = mask.nonzero(as_tuple=True)
    return Rows(ids, row * length + prompt_mask.sum(-1)[row] + column - 1)


def sequence_logprobs(
    model: Any, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], temperature: float = 1.0
) -> Tensor:
    """Return Σₜ log softmax(zₜ / τ)[aₜ] of each response after its prompt, (B,), in float64 and nats.

    ``prompts`` and ``responses`` hold token ids, at least one each. One forward pass reads all B rows.
    """
    device = model.device
    texts = [torch.tensor([*prompt, *response]) for prompt, response in zip(prompts, responses, strict=True)]
    ids = pad_sequence(texts, batch_first=True).to(device)
    before = [
        torch.arange(row * ids.shape[1] + len(prompt) - 1, row * ids.shape[1] + len(text) - 1)
        for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
    ]
    tokens = torch.cat([torch.tensor(response) for response in responses]).to(device)
    logprobs, _, _ = response_outputs(model, Rows(ids, torch.cat(before).to(device)), tokens, temperature)
    return torch.stack([part.sum() for part in logprobs.to(widest(logprobs.device)).split(list(map(len, responses)))])


def response_outputs(model: Any, inputs: Rows, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return log softmax(z / τ)[a] of ``tokens`` a (N,) and the entropies of softmax(z / τ), both (N,) in float32, and
    the hidden states (N, h) of the logits z.

    ``model`` itself is called, so that adapters, roles and distributed wrappers take part in the call.
    """
    plain = causal_of(model)
    known = 0 if inputs.states is None else unchanged(model, plain)
    below = starting_from(plain, inputs.states, known)
    with only_at(plain.base_model, plain.get_output_embeddings(), inputs.before) as read, below:
        logits = model(input_ids=inputs.input_ids, use_cache=False, **inputs.extra).logits
    return *token_logprobs_and_entropies(logits[0], tokens, temperature), read[0][0]


def causal_of(model: Any) -> Any:
    """Return transformers' model inside adapters and wrappers."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "peft_config") else model


def without_adapter(policy: Any, reference: Any | None) -> AbstractContextManager:
    """Return a context in which the policy's adapter is switched off if the reference is None."""
    return policy.disable_adapter() if reference is None else nullcontext()


@contextmanager
def only_at(backbone: nn.Module, head: nn.Module | None, index: Tensor) -> Generator[list[Tensor]]:
    """Restrict ``head`` to the hidden states at ``index`` (N,) of (B · L); yield the list of its inputs, (1, N, h).

    The queries, the output projection and the feed-forward part of the backbone's last layer are restricted, too, since
    their other outputs are not used, and are zero elsewhere; keys and values are the small rest of a layer. Equal
    indices, which prompts of several responses have, are computed once there.
    """
    once = index.unique()

    def gather(module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        return (arguments[0].flatten(0, -2)[index][None],)

    read: list[Tensor] = []

    def note(module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        found = gather(module, arguments)
        read.append(found[0])
        return found

    shapes: list[torch.Size] = []

    def narrow(module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        shapes.append(arguments[0].shape)
        return (arguments[0].flatten(0, -2)[once][None],)

    def widen(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
        shape, width = shapes.pop(), output.shape[-1]
        whole = output.new_zeros(shape.numel() // shape[-1], width).index_copy(0, once, output[0])
        return whole.view(*shape[:-1], width)

    handles = [] if head is None else [head.register_forward_pre_hook(note)]
    layers: Any = getattr(backbone, "layers", ())
    for part in elementwise(layers[-1]) if len(layers) else ():
        handles += [part.register_forward_pre_hook(narrow), part.register_forward_hook(widen)]
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


def elementwise(layer: nn.Module) -> list[nn.Module]:
    """Return the parts of ``layer`` that treat each token separately: queries, output projection, feed-forward.

    A projection may have an adapter; a feed-forward part that is more than a gated one is left out.
    """
    attention, block = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    parts: list[Any] = [getattr(attention, name, None) for name in ("q_proj", "o_proj")]
    found = [part for part in parts if isinstance(getattr(part, "base_layer", part), nn.Linear)]
    if block is not None and GATED - {"act_fn"} <= {name for name, _ in block.named_children()} <= GATED:
        found.append(block)
    return found


GATED = {"gate_proj", "up_proj", "down_proj", "act_fn"}
