"""Scores of several responses to a prompt with one computation of the prompt, by any causal classifier.

The rows of a batch run as a tree of segments without padding (rlhf/modeling/prefix_tree.py), and the head and the last
layer read only the last token of each row.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from rlhf.errors import TrainingError
from rlhf.modeling.architectures import refusal
from rlhf.modeling.forward import only_at
from rlhf.modeling.prefix_tree import common, tree
from rlhf.modeling.segment_attention import NAME, attending, lay_out

WORTH = 0.9  # of the tokens, the largest share that makes the tree faster than padded rows
CACHED = 768  # tokens per forward pass on a CPU, if prompts end there: larger activations leave its cache


def classifier_of(model: Any) -> Any:
    """Return transformers' classifier inside adapters and roles (rlhf/ppo/shared_base.py)."""
    model = getattr(model, "view", model)
    return model.get_base_model() if hasattr(model, "peft_config") else model


def obstacle(model: Any, longest: int | None) -> str | None:
    """Return why ``model`` cannot compute a prompt once, for rows of up to ``longest`` tokens; None if it can."""
    plain = classifier_of(model)
    if not isinstance(getattr(plain, "score", None), nn.Module):
        return f"{type(plain).__name__} has no head that reads the last token"
    attention = plain.base_model.config._attn_implementation
    return refusal(plain.base_model.config, None if attention == NAME else attention, longest)


def saves(rows: Sequence[numpy.ndarray]) -> bool:
    """Return whether enough of the tokens of sorted rows belong to common prefixes."""
    total = sum(map(len, rows))
    again = sum(common(one, other) for one, other in pairwise(rows))
    return total - again <= WORTH * total


def batches(rows: Sequence[numpy.ndarray], most: int, most_rows: int, enough: int | None = None) -> Iterator[range]:
    """Yield the batches of sorted rows, of at most ``most`` tokens, common prefixes counted once.

    A batch ends before a row that has little in common with the previous one, if there is any, and at the first such
    row after ``enough`` tokens; a longer row is a batch.
    """
    added = [len(row) if n == 0 else len(row) - common(rows[n - 1], row) for n, row in enumerate(rows)]
    new = [2 * count > len(row) for count, row in zip(added, rows, strict=True)]
    start, total = 0, 0
    for n, row in enumerate(rows):
        filled = new[n] and enough is not None and total >= enough
        if n > start and (filled or total + added[n] > most or n - start >= most_rows):
            fresh = [place for place in range(start + 1, n + 1) if new[place]]
            end = fresh[-1] if fresh else n
            yield range(start, end)
            start, total = end, 0 if end == n else len(rows[end]) + sum(added[end + 1 : n])
        total += len(row) if n == start else added[n]
    if rows:
        yield range(start, len(rows))


def scores(model: Any, rows: Sequence[numpy.ndarray]) -> tuple[list[float], Tensor]:
    """Return the scores of R rows of token ids and the inputs (R, h) of the head, in one forward pass without padding.

    Raises:
        TrainingError: a layer of the model does not attend by segments.
    """
    plain, found = classifier_of(model), tree(rows)
    ids = numpy.zeros((len(rows), max(map(len, rows))), numpy.int64)
    for place, row in zip(ids, rows, strict=True):
        place[: len(row)] = row
    layout = lay_out(found, numpy.zeros(len(rows), numpy.int64), ids.shape, plain.device)
    last = [_last(row, plain.config.pad_token_id) for row in rows]
    read = layout.index[torch.arange(len(rows)), torch.tensor(last)]
    layout.reading(read)
    with attending([plain]), only_at(plain.base_model, None, read), _reading(plain.score, read) as (hidden, logits):
        model(
            input_ids=torch.from_numpy(ids).to(plain.device).flatten()[layout.source][None],
            # transformers passes any 4-D mask on unchanged instead of building one.
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=plain.device),
            position_ids=layout.positions[None],
            segments=layout,
            use_cache=False,
        )
    if layout.layers != plain.config.num_hidden_layers:
        raise TrainingError(
            f"only {layout.layers} of {plain.config.num_hidden_layers} layers of {type(plain).__name__} attend by "
            "segments, the others would see tokens of other rows: set model.attention=eager, which computes each "
            "prompt for every response"
        )
    return logits[0][0, :, 0].float().tolist(), hidden[0][0]


def _last(row: numpy.ndarray, padding: int | None) -> int:
    """Return the token whose score transformers reads: the last one that is not the padding token."""
    kept = numpy.flatnonzero(row != padding)
    return int(kept[-1]) if len(kept) else 0


@contextmanager
def head_inputs(model: Any, ids: Tensor) -> Generator[list[Tensor]]:
    """Yield a list to which a padded forward pass of ``ids`` (B, T) appends the inputs (B, h) from which it scores.

    It stays empty if the head does not read the last token.
    """
    plain, found = classifier_of(model), []
    head = getattr(plain, "score", None)
    if not isinstance(head, nn.Module):
        yield found
        return
    kept = ids != plain.config.get_text_config().pad_token_id
    last = (torch.arange(ids.shape[1], device=ids.device) * kept).argmax(-1)

    def keep(module: nn.Module, arguments: tuple[Tensor]) -> None:
        found.append(arguments[0][torch.arange(len(ids), device=ids.device), last])

    handle = head.register_forward_pre_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def _reading(head: nn.Module, places: Tensor) -> Generator[tuple[list[Tensor], list[Tensor]]]:
    """Compute ``head`` only at ``places`` (R,) of (1, N, h) within the context.

    Yield the lists of its inputs (1, R, h) and of its logits (1, R, 1).

    The head returns zeros (1, N, 1), of which transformers reads one.
    """
    read: list[Tensor] = []
    found: list[Tensor] = []
    sizes: list[int] = []

    def gather(module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        sizes.append(arguments[0].shape[1])
        read.append(arguments[0][:, places])
        return (read[-1],)

    def keep(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
        found.append(output)
        return output.new_zeros(1, sizes.pop(), output.shape[-1])

    handles = [head.register_forward_pre_hook(gather), head.register_forward_hook(keep)]
    try:
        yield read, found
    finally:
        for handle in handles:
            handle.remove()
