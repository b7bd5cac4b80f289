"""Decoding with a KV cache: each prompt is encoded once, and finished rows leave the batch and the cache."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, LinearAttentionCacheLayerMixin

from rlhf.config.library_errors import first_sentence
from rlhf.errors import ModelError
from rlhf.modeling.architectures import refusal
from rlhf.modeling.caches import SHARING, SharedPrompts, joined, make_room, shared

READ_AT_ONCE = 2048  # prompt tokens per forward pass; larger passes need more memory and are not faster
PIECE = 256  # prompt tokens per pass of an answer that is followed, which bounds the memory beside its cache
LOOK_EVERY = 16  # tokens between two looks at the rows that have ended, each of which makes the host wait for a GPU
FULL = 0.75  # below this share of unfinished rows the finished ones are dropped, which copies the cache


class Sampled(NamedTuple):
    """Token ids of a response, their log-probabilities under the sampling distribution, and values.

    ``values`` has the head's output for the hidden state that each token was drawn from; it is empty without a head.
    """

    ids: list[int]
    logprobs: list[float]
    values: Sequence[float] = ()


class Decoding:
    """Decoding of one batch of prompts. ``uniforms`` (B, T) in (0, 1] determine the tokens that are drawn.

    ``head``, if any, maps the hidden states (B, h) that tokens are drawn from to values (B,). ``follow``, if any, is
    called with the row and the token of each draw, before the next one.

    Raises:
        ModelError: the model does not support transformers' cache.
    """

    def __init__(
        self,
        model: Any,
        rows: Sequence[Sequence[int]],
        uniforms: Tensor,
        pad: int,
        length: int,
        temperature: float,
        head: Callable[[Tensor], Tensor] | None = None,
        follow: Callable[[int, int], None] | None = None,
    ):
        self.follow = follow
        self.head, self.values = head, torch.empty(0)  # values for the logits of the last pass
        self.model, self.pad, self.length, self.temperature = model, pad, length, temperature
        plain = model.get_base_model() if hasattr(model, "peft_config") else model
        self.config, self.takes = plain.config, set(inspect.signature(plain.forward).parameters)
        self.cache = cache_argument(plain)
        # Layers that cache anything besides keys and values cannot be batched across passes.
        self.plain = all(type(layer) is DynamicLayer for layer in DynamicCache(config=self.config).layers)
        # transformers reads a mask of columns on the host in every pass, and passes on one with 4 dimensions.
        attention = "sdpa" if self.config._attn_implementation == SHARING else self.config._attn_implementation
        self.masks = self.plain and refusal(self.config, attention, None) is None
        self.rows = rows
        self.uniforms = uniforms.to(model.device)
        self.padded = False
        self.prompts: SharedPrompts | None = None  # of rows that share prompts, with the attention that reads them
        self.width = max(map(len, rows))

    def run(self, ends: set[int]) -> list[Sampled]:
        """Return the responses, in the order of the prompts."""
        if self.head is None:
            return self._run(ends)
        output = self.model.get_output_embeddings()
        handle = output.register_forward_pre_hook(self._note)
        try:
            return self._run(ends)
        finally:
            handle.remove()

    def _note(self, module: torch.nn.Module, arguments: tuple[Tensor]) -> None:
        if self.head is not None:
            self.values = self.head(arguments[0][:, -1])

    def _run(self, ends: set[int]) -> list[Sampled]:
        device = self.model.device
        logits, cache, mask = self._read()
        last = torch.tensor(sorted(ends), device=device)
        live = torch.arange(len(self.rows), device=device)  # the prompt of each row of the batch
        going = torch.ones_like(live, dtype=torch.bool)
        positions = mask.sum(-1, keepdim=True)
        # On the model's device: a copy per token would make the host wait for a GPU. Behind a row's length is garbage.
        tokens = torch.full((len(self.rows), self.length), self.pad, device=device)
        logprobs, lengths = torch.zeros(tokens.shape, device=device), torch.zeros_like(live)
        values = torch.zeros(tokens.shape if self.head is not None else (len(self.rows), 0), device=device)
        every = LOOK_EVERY if device.type != "cpu" and self.follow is None else 1
        for t in range(self.length):
            drawn, logp = draw(logits, self.uniforms[live, t] if self.temperature else None, self.temperature)
            tokens[live, t], logprobs[live, t] = drawn, logp
            if self.head is not None:
                values[live, t] = self.values
            lengths[live] += going
            if self.follow is not None:
                for row, token in zip(live[going].tolist(), drawn[going].tolist(), strict=True):
                    self.follow(row, token)
            going = going & ~torch.isin(drawn, last)
            if t + 1 == self.length:
                break
            if (t + 1) % every == 0:
                count = int(going.sum())
                if not count:
                    break
                if count <= FULL * len(going):
                    live, drawn, mask, positions = self._keep(going, cache, live, drawn, mask, positions)
                    going = torch.ones_like(live, dtype=torch.bool)
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
            logits = self._forward(drawn[:, None], mask, positions, cache)
            positions = positions + 1
        return [
            Sampled(ids[:size], found[:size], own[:size])
            for ids, found, own, size in zip(*(x.tolist() for x in (tokens, logprobs, values, lengths)), strict=True)
        ]

    def _keep(self, going: Tensor, cache: Any, *state: Tensor) -> list[Tensor]:
        """Keep only the rows that are ``going`` (B,) in the cache; return the same rows of each ``state`` (B, ...)."""
        kept = going.nonzero()[:, 0]
        cache.reorder_cache(kept)
        if self.prompts is not None:
            self.prompts.keep(self.prompts.of[kept])
        live, drawn, mask, positions = (x[kept] for x in state)
        self.padded = not mask.all()
        return [live, drawn, mask, positions]

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """Return the logits (B, V) after the last of ``ids`` (B, T)."""
        inputs: dict[str, Any] = {"input_ids": ids, self.cache: cache, "use_cache": True}
        if self.prompts is not None:
            # transformers passes any 4-D mask on unchanged instead of building one.
            inputs |= {"attention_mask": ids.new_ones(1, 1, 1, 1, dtype=torch.bool), "prompts": self.prompts}
        elif self.padded:  # a mask is only needed with padding
            inputs["attention_mask"] = mask[:, None, None].bool() if self.masks and ids.shape[1] == 1 else mask
        inputs |= {name: x for name, x in (("position_ids", positions), ("logits_to_keep", 1)) if name in self.takes}
        return self.model(**inputs).logits[:, -1]

    def _read(self) -> tuple[Tensor, Any, Tensor]:
        """Encode each distinct prompt once; return the logits (B, V) after them, their cache, and its mask (B, P)."""
        if self.follow is not None and len(self.rows) == 1 and self.plain:
            return self._read_pieces(self.rows[0])
        first: dict[tuple[int, ...], int] = {}
        index = [first.setdefault(tuple(row), len(first)) for row in self.rows]
        prompts = list(first)
        parts = groups([len(row) for row in prompts], READ_AT_ONCE) if self.plain else [list(range(len(prompts)))]
        found, values = [], torch.empty(len(prompts) if self.head is not None else 0, device=self.model.device)
        for part in parts:
            found.append((part, *self._read_group([prompts[i] for i in part])))
            if self.head is not None:
                values[part] = self.values
        logits = found[0][1].new_empty(len(prompts), found[0][1].shape[-1])
        mask = torch.zeros(len(prompts), self.width, dtype=torch.long, device=logits.device)
        for part, behind, _, own in found:
            logits[part], mask[part, self.width - own.shape[1] :] = behind, own
        shares = self.plain and len(prompts) < len(self.rows) and self.config._attn_implementation == SHARING
        room = 0 if shares else self.length
        cache = (
            joined([(part, own) for part, _, own, _ in found], len(prompts), self.width, room)
            if self.plain
            else found[0][2]
        )
        if len(prompts) < len(self.rows):
            copies: Any = torch.tensor(index, device=logits.device)
            if shares:
                self.prompts = shared(cache, mask, copies, self.length)
            else:
                cache.reorder_cache(copies)
            logits, mask = logits[copies], mask[copies]
            values = values[copies] if self.head is not None else values
        self.padded, self.values = not mask.all(), values
        return logits, cache, mask

    def _read_pieces(self, row: Sequence[int]) -> tuple[Tensor, Any, Tensor]:
        """Encode one prompt in pieces, into a cache with room for the response."""
        cache: Any = DynamicCache(config=self.config)
        ids = torch.tensor([list(row)], device=self.model.device)
        mask = torch.ones_like(ids)
        for start in range(0, len(row), PIECE):
            piece = ids[:, start : start + PIECE]
            positions = torch.arange(start, start + piece.shape[1], device=ids.device)[None]
            logits = self._forward(piece, mask, positions, cache)
            if start == 0:
                make_room(cache, len(row) + self.length)
        return logits, cache, mask

    def _read_group(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Any, Tensor]:
        """Encode prompts padded on the left, so that all of them end in the same column."""
        width, device = max(map(len, prompts)), self.model.device
        ids = torch.tensor([[self.pad] * (width - len(row)) + list(row) for row in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=device)
        cache, self.padded = DynamicCache(config=self.config), not mask.all()
        logits = self._forward(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache)
        check_states(self.model, cache)
        return logits, cache, mask


def cache_argument(model: Any) -> str:
    """Return the name of the argument of ``model.forward`` that takes a cache.

    transformers 5.24 renames ``past_key_values`` to ``cache``; a model with remote code keeps the old name.

    Raises:
        ModelError: the model has neither, or no layer with keys and values. Mamba's ``cache_params`` is also ``cache``.
    """
    takes = inspect.signature(model.forward).parameters
    if any(isinstance(layer, CacheLayerMixin) for layer in DynamicCache(config=model.config).layers):
        for name in ("cache", "past_key_values"):
            if name in takes:
                return name
    raise ModelError(f"{type(model).__name__} reads no cache of transformers: use a model that does")


def check(model: Any) -> None:
    """Check before a long computation that ``model`` can decode. Only one with recurrent layers reads two tokens.

    Raises:
        ModelError: the model does not support transformers' cache, or keeps recurrent states outside of it.
    """
    name, cache = cache_argument(model), DynamicCache(config=model.config)
    sharded = any(hasattr(parameter, "ds_id") for parameter in model.parameters())  # by DeepSpeed, until it trains
    if sharded or not any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers):
        return
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), **{name: cache}, use_cache=True)
    except (ValueError, TypeError) as error:  # such as MiniMax, which has another cache class
        cause = f"{type(model).__name__} does not use transformers' cache ({first_sentence(error)})"
        raise ModelError(f"{cause}: use a model that does") from error
    check_states(model, cache)


def check_states(model: Any, cache: DynamicCache) -> None:
    """Check after a forward pass that the cache has the states of all recurrent layers.

    States that a layer keeps itself, as those of RecurrentGemma do, do not follow the rows of a batch.

    Raises:
        ModelError: a recurrent layer has not written to the cache.
    """
    for layer in cache.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            written = (*layer.is_conv_states_initialized.values(), *layer.is_recurrent_states_initialized.values())
            if not any(written):
                kind = type(model.get_base_model() if hasattr(model, "peft_config") else model).__name__
                raise ModelError(
                    f"{kind} keeps recurrent states outside of transformers' cache, so a batch of prompts would be "
                    "decoded wrongly: use a model of another architecture"
                )


def draw(logits: Tensor, uniforms: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """Return a token for each row of logits z (B, V) and its log-probability, both (B,).

    With ``uniforms`` (B,) in (0, 1], it is the first token whose cumulative softmax(z / τ) reaches the uniform number.
    Without them, it is the most likely token, with its log-probability at temperature 1.
    """
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if uniforms is not None:
        scaled = scaled / temperature
    most, likely = scaled.max(-1, keepdim=True)
    weights = (scaled - most).exp_()
    if uniforms is None:
        return likely[:, 0], -weights.sum(-1).log()
    cumulated = weights.cumsum_(-1)
    total = cumulated[:, -1:]
    # Not above the total, however it rounds, since a uniform number is at most 1; above 0, so of a token that has any.
    drawn = torch.searchsorted(cumulated, uniforms[:, None].to(total.dtype) * total)
    return drawn[:, 0], (scaled.gather(1, drawn) - most - total.log())[:, 0]


def groups(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield groups of neighbors with similar lengths, of at most ``most`` tokens with padding.

    ``lengths`` are sorted. A group ends before an eighth of it would be padding, unless it is too small for a pass.
    """
    start = 0
    for i in range(1, len(lengths) + 1):
        if i < len(lengths):
            padded = (i + 1 - start) * lengths[i]
            used = sum(lengths[start : i + 1])
            if padded <= most and (padded - used <= padded / 8 or used < most / 8):
                continue
        yield list(range(start, i))
        start = i
