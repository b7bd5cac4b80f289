"""Caches of keys and values for decoding: preallocated, and with each prompt stored once for its K responses."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

SHARING = "rlhf_segments"
"""Name of the attention function that reads `SharedPrompts`; rlhf.modeling.segment_attention registers it."""


class Room(DynamicLayer):
    """Keys and values of one layer in preallocated memory; transformers' layer copies all of them for each token.

    ``length`` tokens of each row, (B, heads, length, size), are in use.
    """

    def __init__(self, keys: Tensor, values: Tensor, length: int):
        super().__init__()
        self.room, self.length = (keys, values), length
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        keys, values = (part[:, :, : self.length] for part in self.room)
        self.keys, self.values = keys, values
        return keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, heads, T, size) and return all that are in use."""
        before = self.length
        self.length += key_states.shape[-2]
        for part, new in zip(self.room, (key_states, value_states), strict=True):
            part[:, :, before : self.length] = new
        return self._show()

    def get_seq_length(self) -> int:
        """Return the number of tokens in use."""
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep only the rows ``beam_idx`` (B',). Unused memory is not copied."""
        parts = []
        for part in self.room:
            kept = part.new_empty((len(beam_idx), *part.shape[1:]))
            kept[:, :, : self.length] = part[beam_idx, :, : self.length]
            parts.append(kept)
        self.room = tuple(parts)
        self._show()


def make_room(cache: DynamicCache, length: int) -> None:
    """Move the keys and values of each layer into memory for ``length`` tokens, which is touched when it is used."""
    layers: list[Any] = list(cache.layers)
    for number, layer in enumerate(layers):
        if not layer.is_initialized:  # it shares another layer's
            continue
        own: list[Tensor] = [getattr(layer, name) for name in ("keys", "values")]
        rooms = [one.new_empty(*one.shape[:2], length, one.shape[-1]) for one in own]
        cache.layers[number] = room = Room(*rooms, 0)
        room.update(*own)


def joined(found: Sequence[tuple[list[int], Any]], rows: int, width: int, more: int) -> DynamicCache:
    """Return one cache of groups of ``rows`` rows, padded on the left to ``width``, with room for ``more`` tokens.

    ``found``: the rows of each group and their cache, which is emptied.
    """
    cache: Any = found[0][1]
    for number, layer in enumerate(cache.layers):
        if not layer.is_initialized:  # it shares another layer's
            continue
        rooms = []
        for name in ("keys", "values"):
            one = getattr(layer, name)
            room = one.new_empty(rows, one.shape[1], width + more, one.shape[-1])  # touched when it is used
            for part, other in found:
                own = getattr(other.layers[number], name)
                room[part, :, width - own.shape[-2] : width] = own
                room[part, :, : width - own.shape[-2]] = 0
            rooms.append(room)
        cache.layers[number] = Room(*rooms, width)
        for _, other in found[1:]:
            other.layers[number] = None
    return cache


class SharedPrompts:
    """Keys and values of G prompts, each of which is attended to by up to K rows with one matrix product.

    Copies of a prompt for its K responses would take K times the memory, and each token would read all of them.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], mask: Tensor, of: Tensor):
        """Args: keys and values (G, heads, P, d) of each layer; mask (G, P); of (B,): the prompt of each row."""
        self.layers, self.mask = list(layers), mask.bool()
        self.keep(of)

    def keep(self, of: Tensor) -> None:
        """Set the prompt of each remaining row (B,); prompts without rows are dropped if they are a quarter or more."""
        self.of = of
        used, number = of.unique(return_inverse=True)
        if len(used) <= 0.75 * len(self.mask):
            self.layers = [(keys[used], values[used]) for keys, values in self.layers]
            self.mask, self.of = self.mask[used], number
        order = self.of.argsort(stable=True)
        counts = torch.bincount(self.of, minlength=len(self.mask))
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=of.device) - (counts.cumsum(0) - counts)[self.of[order]]
        self.most = int(counts.max())
        self.slots = self.of * self.most + rank  # of each row, among G · K
        self.hidden = None if self.mask.all() else ~self.mask[:, None, None, None]

    def _grouped(self, rows: Tensor) -> Tensor:
        """Return (B, heads, n, size) as (G, heads, K · n, size), 0 for missing rows."""
        _, heads, n, size = rows.shape
        slotted = rows.new_zeros(len(self.mask) * self.most, heads, n, size).index_copy_(0, self.slots, rows)
        return slotted.view(-1, self.most, heads, n, size).transpose(1, 2).flatten(2, 3)

    def _ungrouped(self, groups: Tensor, n: int) -> Tensor:
        """Return (G, heads, K · n, size) as (B, heads, n, size)."""
        found = groups.unflatten(2, (self.most, n)).transpose(1, 2).flatten(0, 1)
        return found[self.slots]

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Return the attention (B, 1, heads, d) of one query per row to its prompt and to its own keys.

        query (B, heads, 1, d); key, value (B, key heads, t, d): those of the response only.
        """
        keys, values = self.layers[module.layer_idx]
        rows, heads, _, size = query.shape
        n = heads // key.shape[1]  # query heads that share a key head
        query = query.reshape(rows, key.shape[1], n, size) * (size**-0.5 if scaling is None else scaling)
        scores = self._grouped(query) @ keys.transpose(2, 3)
        if self.hidden is not None:
            scores = scores.unflatten(2, (self.most, n)).masked_fill(self.hidden, float("-inf")).flatten(2, 3)
        both = torch.cat([self._ungrouped(scores, n), query @ key.transpose(2, 3)], dim=-1)
        before, own = both.float().softmax(-1).to(value.dtype).split([keys.shape[2], key.shape[2]], dim=-1)
        found = self._ungrouped(self._grouped(before) @ values, n) + own @ value
        return found.reshape(rows, 1, heads, size)


def shared(cache: DynamicCache, mask: Tensor, of: Tensor, length: int) -> SharedPrompts:
    """Move the prompts out of ``cache`` and leave room for ``length`` tokens of each row; see `SharedPrompts`."""
    layers: list[Any] = list(cache.layers)
    found = SharedPrompts([(layer.keys, layer.values) for layer in layers], mask, of)
    for number, layer in enumerate(layers):
        rooms = (one.new_empty(len(of), one.shape[1], length, one.shape[-1]) for one in (layer.keys, layer.values))
        cache.layers[number] = Room(*rooms, 0)
    return found
