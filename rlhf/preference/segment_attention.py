"""Attention over a tree of segments that lie one after the other in a single row: each token sees its own row alone.

A token attends to the segments above its own and, causally, to its own. Every segment is a call of its own of
``scaled_dot_product_attention`` over what it may see and nothing else, so that no score is computed to be masked away
(but half of the segment's own square where it follows on another), and the linear layers see a row without padding.
A 4-D mask over the row says the same with scores that grow with the square of the whole batch, so here a batch is one
row, however many groups it packs, and needs no budget. On a GPU it is SDPA, too, a launch for each segment and layer;
FlexAttention, with one launch, has not been tried.

transformers finds the function under ``NAME``; it is SDPA as it was where no layout is handed to the model.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rlhf.preference.prefix_tree import Tree

NAME = "rlhf_segments"


@dataclass
class Layout:
    """Where the segments of a tree lie in one row of N tokens, and where the tokens of the batch (R, T) are in it.

    ``index`` (R, T) is the place of each token in the row, and N, one beyond the last, for padding. ``source`` (N,) is
    the place of each token of the row in the flattened batch, ``positions`` (N,) how many tokens precede it in its own.
    """

    sizes: list[int]
    above: list[tuple[int, ...]]  # of each segment, those that it follows on, from the top down
    index: Tensor
    source: Tensor
    positions: Tensor
    layers: int = 0  # how many attention layers have followed this layout, so that it is known that all do
    read: Tensor | None = None  # the places of the row whose last hidden states are read, in order; None for all
    asked: list[Tensor | None] | None = None  # of each segment, those of ``read`` that lie in it; None for the whole
    _masks: dict[tuple[int, int, torch.dtype], Tensor] = field(default_factory=dict)

    def reading(self, places: Tensor | None) -> None:
        """Only hidden states at ``places`` of the row are read, which the last layer need not go beyond."""
        self.read = self.asked = None
        if places is not None:
            self.read = places[places < len(self.source)].unique()  # beyond lies the padding of an empty row
            bounds = torch.tensor([0, *self.sizes], device=places.device).cumsum(0)
            cuts = torch.searchsorted(self.read, bounds).tolist()
            parts = [self.read[low:high] - bound for (low, high), bound in zip(pairwise(cuts), bounds, strict=False)]
            self.asked = [None if 2 * len(part) > size else part for part, size in zip(parts, self.sizes, strict=True)]

    def mask(self, length: int, before: int, like: Tensor) -> Tensor:
        """(length, before + length), added to scores: all that is before, and itself up to the diagonal."""
        key = (length, before, like.dtype)
        if key not in self._masks:
            mask = torch.full((length, before + length), float("-inf"), dtype=like.dtype, device=like.device)
            self._masks[key] = mask.triu_(before + 1)
        return self._masks[key]


def lay_out(tree: Tree, starts: numpy.ndarray, shape: tuple[int, int], device: torch.device) -> Layout:
    """The layout of ``tree`` for a batch of ``shape`` whose row i begins in column ``starts[i]``."""
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
    tensors = (torch.from_numpy(found).to(device) for found in (index, source, positions))
    return Layout([len(segment) for segment in tree.segments], above, *tensors)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Layout | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Queries (1, heads, N, d) attend by ``segments``; a transformers attention function, returns (1, N, heads, d)."""
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
            attn_mask=mask if places is None else mask[places],
            dropout_p=dropout,
            scale=scaling,
            is_causal=mask is None,
        )
        found.append(attended if places is None else placed(attended, places, length, 2))
    return torch.cat(found, dim=2).transpose(1, 2), None


def placed(part: Tensor, places: Tensor, length: int, dimension: int) -> Tensor:
    """``part`` at ``places`` of ``dimension``, zeros between."""
    shape = list(part.shape)
    shape[dimension] = length
    return part.new_zeros(shape).index_copy(dimension, places, part)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
