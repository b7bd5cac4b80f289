"""Attention over a tree of segments, concatenated to one row: each token sees only its own row of the batch.

A token attends to the segments above its segment and, causally, to its segment. Each segment is a separate call of
``scaled_dot_product_attention`` with only the visible keys, so that almost no masked scores are computed (only half of
a segment's own square, if it continues another one), and the linear layers see a row without padding. A 4-D mask over
the row would compute scores quadratic in the whole batch. On a GPU each segment is one kernel launch per layer;
FlexAttention, with one launch, has not been tried.

The function is registered with transformers as ``NAME``; without a layout it is plain SDPA.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rlhf.modeling.caches import SHARING as NAME
from rlhf.modeling.caches import SharedPrompts
from rlhf.modeling.prefix_tree import Tree


@dataclass
class Layout:
    """The segments of a tree in one row of N tokens, and the mapping between this row and the batch (R, T).

    ``index`` (R, T) is the place of each token in the row; N, one beyond the last, for padding. ``source`` (N,) is the
    place of each token of the row in the flattened batch, ``positions`` (N,) its position id.
    """

    sizes: list[int]
    above: list[tuple[int, ...]]  # for each segment, its ancestors from the root down
    index: Tensor
    source: Tensor
    positions: Tensor
    layers: int = 0  # the number of attention layers that used this layout, to verify that all do
    read: Tensor | None = None  # the places of the row whose last hidden states are read, in order; None for all
    asked: list[Tensor | None] | None = None  # for each segment, the places of ``read`` in it; None for all
    _masks: dict[tuple[int, int, torch.dtype], Tensor] = field(default_factory=dict)

    def reading(self, places: Tensor | None) -> None:
        """Restrict the last layer to ``places`` of the row, the only hidden states that are read; None for all."""
        self.read = self.asked = None
        if places is not None:
            self.read = places[places < len(self.source)].unique()  # without the padding of an empty row
            bounds = torch.tensor([0, *self.sizes], device=places.device).cumsum(0)
            cuts = torch.searchsorted(self.read, bounds).tolist()
            parts = [self.read[low:high] - bound for (low, high), bound in zip(pairwise(cuts), bounds, strict=False)]
            self.asked = [None if 2 * len(part) > size else part for part, size in zip(parts, self.sizes, strict=True)]

    def mask(self, length: int, before: int, like: Tensor) -> Tensor:
        """Return the additive mask (length, before + length): 0 for ancestors and the causal part of the segment."""
        key = (length, before, like.dtype)
        if key not in self._masks:
            mask = torch.full((length, before + length), float("-inf"), dtype=like.dtype, device=like.device)
            self._masks[key] = mask.triu_(before + 1)
        return self._masks[key]


@contextmanager
def attending(models: Iterable[torch.nn.Module]) -> Generator[None]:
    """Let ``models`` attend by segments within the context; without a layout, by SDPA."""
    found: list[Any] = [getattr(part, "config", None) for model in models for part in model.modules()]
    distinct = list({id(config): config for config in found if isinstance(config, PretrainedConfig)}.values())
    before = [config._attn_implementation for config in distinct]
    for config in distinct:
        config._attn_implementation = NAME
    try:
        yield
    finally:
        for config, name in zip(distinct, before, strict=True):
            config._attn_implementation = name


def lay_out(tree: Tree, starts: numpy.ndarray, shape: Sequence[int], device: torch.device) -> Layout:
    """Return the layout of ``tree`` for a batch of ``shape`` (R, T) whose row i begins in column ``starts[i]``."""
    rows, columns = shape
    offsets = numpy.concatenate([[0], numpy.cumsum([len(segment) for segment in tree.segments], dtype=numpy.int64)])
    source, positions = (numpy.empty(offsets[-1], numpy.int64) for _ in range(2))
    above: list[tuple[int, ...]] = []
    for number, segment in enumerate(tree.segments):
        place = slice(offsets[number], offsets[number + 1])
        positions[place] = numpy.arange(segment.begin, segment.end)
        source[place] = segment.row * columns + starts[segment.row] + positions[place]
        above.append(() if segment.parent is None else (*above[segment.parent], segment.parent))
    index = numpy.full((rows, columns), offsets[-1], numpy.int64)
    for row, path in enumerate(tree.paths):
        for number in path:
            segment = tree.segments[number]
            begin = starts[row] + segment.begin
            index[row, begin : begin + len(segment)] = numpy.arange(offsets[number], offsets[number + 1])
    index_, source_, positions_ = (torch.from_numpy(array).to(device) for array in (index, source, positions))
    return Layout([len(segment) for segment in tree.segments], above, index_, source_, positions_)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Layout | None = None,
    prompts: SharedPrompts | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Return the attention (1, N, heads, d) of queries (1, heads, N, d) by ``segments``, or SDPA without them.

    With ``prompts``, queries (B, heads, 1, d) of tokens that are decoded attend to shared prompts. The signature is
    that of transformers' attention functions.
    """
    if prompts is not None:
        return prompts.attend(module, query, key, value, scaling), None
    if segments is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **others)
    last = module.layer_idx == module.config.num_hidden_layers - 1
    asked = segments.asked if last and segments.asked is not None else [None] * len(segments.sizes)
    segments.layers += 1
    if groups := query.shape[1] // key.shape[1] - 1:
        key, value = repeat_kv(key, groups + 1), repeat_kv(value, groups + 1)
    queries, keys, values = (whole.split(segments.sizes, dim=2) for whole in (query, key, value))
    found = []
    for number, (above, places) in enumerate(zip(segments.above, asked, strict=True)):
        if places is not None and not len(places):
            found.append(torch.zeros_like(queries[number]))
            continue
        seen_keys, seen_values = keys[number], values[number]
        if above:
            seen_keys = torch.cat([*(keys[n] for n in above), seen_keys], dim=2)
            seen_values = torch.cat([*(values[n] for n in above), seen_values], dim=2)
        length, before = segments.sizes[number], seen_keys.shape[2] - segments.sizes[number]
        mask = segments.mask(length, before, query) if before or places is not None else None
        attended = scaled_dot_product_attention(
            queries[number] if places is None else queries[number][:, :, places],
            seen_keys,
            seen_values,
            attn_mask=mask if mask is None or places is None else mask[places],
            dropout_p=dropout,
            scale=scaling,
            is_causal=mask is None,
        )
        found.append(attended if places is None else placed(attended, places, length, 2))
    return torch.cat(found, dim=2).transpose(1, 2), None


def placed(part: Tensor, places: Tensor, length: int, dimension: int) -> Tensor:
    """Return ``part`` at ``places`` along ``dimension`` of size ``length``, with zeros elsewhere."""
    shape = list(part.shape)
    shape[dimension] = length
    return part.new_zeros(shape).index_copy(dimension, places, part)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
