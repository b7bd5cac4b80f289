"""A language or reward model that computes common prefixes of a batch once, inside TRL's trainers.

It replaces the forward pass of the backbone, ``model.base_model``, which every head calls for hidden states. The rows
of a padded batch run as a tree of segments without padding (prefix_tree.py, segment_attention.py); the result (R, T, H)
has the usual layout, with zeros at padding. TRL's losses, adapters and evaluation see the same numbers up to rounding.
If a head reads only some positions (the labeled ones, or the last of each row), the last layer is computed only as far
as they need it, and the hidden states at other positions are meaningless.

With dropout, which TRL disables unless ``disable_dropout=false``, the copies of a prompt share one draw. A batch with
a cache, position ids, embeddings, or holes in its mask takes the plain forward pass.
"""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.modeling_outputs import BaseModelOutputWithPast

from rlhf.errors import TrainingError
from rlhf.modeling import segment_attention
from rlhf.modeling.architectures import KNOWN
from rlhf.modeling.prefix_tree import tree
from rlhf.preference import head

IGNORED = -100  # the label of tokens that are not scored, in transformers and TRL
SCALES = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier", "lm_head_multiplier")
USUAL = {"input_ids", "attention_mask", "use_cache", "output_router_logits", "return_dict"}


class Sharing:
    """Prefix sharing for ``model``, with or without an adapter, until ``remove`` or the end of the context.

    Create it after TRL's trainer, which installs its fused head. ``fields`` are the fields of ``head.Scored`` to
    compute; a reference needs only ``log_probs``.
    """

    def __init__(self, model: Any, fields: tuple[str, ...] = head.FIELDS):
        self.model = model.get_base_model() if hasattr(model, "peft_config") else model
        self.backbone = self.model.base_model
        self.fields = fields
        # State of the current forward pass.
        self._layout: segment_attention.Layout | None = None
        self._last: tuple[Tensor, Tensor | None, segment_attention.Layout | None] | None = None
        self._wanted: Tensor | None = None  # (R, T), the positions whose hidden states are read
        self._picked = False  # whether only these are returned
        self._undo: list[Callable[[], None]] = []
        config = self.backbone.config
        attention, config._attn_implementation = config._attn_implementation, segment_attention.NAME
        self._undo.append(lambda: setattr(config, "_attn_implementation", attention))
        self._last_layer = (self.backbone.h if hasattr(self.backbone, "h") else self.backbone.layers)[-1]
        attending = getattr(self._last_layer, "self_attn", None)
        for module in (self._last_layer.mlp, getattr(attending, "q_proj", None), getattr(attending, "o_proj", None)):
            if module is not None:
                self._shorten(module)
        self._plain = self._put(self.backbone, self._forward)
        scores = self.model.get_output_embeddings() is None
        self._whole = self._put(self.model, self._score if scores else self._label)

    def remove(self) -> None:
        """Restore the model."""
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> "Sharing":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()

    def _put(self, module: Any, forward: Callable) -> Callable:
        """Replace the module's forward by ``forward`` and return the original."""
        before, original = module.__dict__.get("forward"), module.forward
        module.forward = partial(forward)  # accelerate would bind a method to the module again
        self._undo.append(
            lambda: module.__dict__.pop("forward") if before is None else setattr(module, "forward", before)
        )
        return original

    def _forward(self, input_ids: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Run the backbone: hidden states (R, T, H), or (1, M, H) if a language head reads only M positions."""
        given = {name for name, value in kwargs.items() if value is not None and value is not False}
        layout = None if args or input_ids is None or given - USUAL else self._laid_out(input_ids, kwargs)
        if layout is None:
            outputs = self._plain(input_ids, *args, **kwargs)
            if self._picked:
                outputs.last_hidden_state = outputs.last_hidden_state[self._wanted][None]
            return outputs
        hidden = self._run(input_ids, layout)
        if self._picked:
            return BaseModelOutputWithPast(last_hidden_state=hidden[layout.index[self._wanted]][None])
        filled = torch.cat([hidden, hidden.new_zeros(1, hidden.shape[1])])  # for padding
        return BaseModelOutputWithPast(last_hidden_state=filled[layout.index])

    def _run(self, ids: Tensor, layout: segment_attention.Layout) -> Tensor:
        """Return the last hidden states (N, H) of the row that ``layout`` describes."""
        # The wanted positions are no longer known when the backward pass computes activations again.
        again = getattr(self._last_layer, "gradient_checkpointing", False) and self._last_layer.training
        # A copy: the backward pass may return to this one after the reference has run the same batch.
        layout = replace(layout, layers=0)
        layout.reading(None if again or self._wanted is None else layout.index[self._wanted])
        self._layout = layout
        try:
            hidden = self._plain(
                ids.reshape(-1)[layout.source][None],
                # transformers passes any 4-D mask on unchanged instead of building one.
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device),
                position_ids=layout.positions[None],
                segments=layout,
                use_cache=False,
            ).last_hidden_state[0]
        finally:
            self._layout = None
        expected = self.backbone.config.num_hidden_layers
        if layout.layers != expected:
            raise TrainingError(
                f"only {layout.layers} of {expected} layers of {type(self.model).__name__} attend by segments, the "
                "others would see tokens of other rows: set stage.shared_prefix=off"
            )
        return hidden

    def _laid_out(self, ids: Tensor, kwargs: dict[str, Any]) -> segment_attention.Layout | None:
        """Return the layout of a batch, None without one; that of the last batch is reused for the reference."""
        mask = kwargs.get("attention_mask")
        if ids.dim() != 2 or (mask is not None and mask.shape != ids.shape):
            return None
        if self._last is not None and _same(self._last[0], ids) and _same(self._last[1], mask):
            return self._last[2]
        rows = ids.cpu().numpy()
        seen = torch.ones_like(ids) if mask is None else mask
        lengths, starts = seen.bool().sum(1).cpu().numpy(), seen.int().argmax(1).cpu().numpy()
        whole = all(bool(row[start : start + n].all()) for row, start, n in zip(seen, starts, lengths, strict=True))
        rotary = KNOWN.get(self.backbone.config.model_type, False)
        layout = None
        if whole and lengths.any() and (rotary or not starts[lengths > 0].any()):
            found = tree([row[start : start + n] for row, start, n in zip(rows, starts, lengths, strict=True)])
            layout = segment_attention.lay_out(found, starts, ids.shape, ids.device)
        self._last = (ids, mask, layout)
        return layout

    def _shorten(self, module: Any) -> None:
        """Compute a position-wise part of the last layer only at the positions that are read."""

        def short(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            read = None if self._layout is None else self._layout.read
            if read is None:
                return whole(hidden, *args, **kwargs)
            return segment_attention.placed(whole(hidden[:, read], *args, **kwargs), read, hidden.shape[1], 1)

        whole = self._put(module, short)

    def _score(self, input_ids: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Run a reward model's forward pass, which reads the last token of each row, as transformers finds it."""
        padding = self.model.config.pad_token_id
        if not args and input_ids is not None and padding is not None:
            place = torch.arange(input_ids.shape[1], device=input_ids.device)
            last = (place * (input_ids != padding)).argmax(1)
            self._wanted = place == last[:, None]
        try:
            return self._whole(input_ids, *args, **kwargs)
        finally:
            self._wanted = None

    def _label(self, *args: Any, labels: Any = None, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        """Run a language model's forward pass with TRL's fused head, which reads the positions before labels."""
        if not fused_lm_head or labels is None or "shift_labels" in kwargs:
            given = {} if labels is None else {"labels": labels}
            given |= {"fused_lm_head": True} if fused_lm_head else {}
            return self._whole(*args, **given, **kwargs)
        mask = labels[:, 1:] != IGNORED
        targets = labels[:, 1:][mask]
        self._wanted, self._picked = pad(mask, (0, 1)), True
        try:
            if self._ours(targets.device):
                hidden = self.backbone(*args, **kwargs).last_hidden_state[0]
                values = head.score(self.model.get_output_embeddings(), hidden, targets, self.fields)
            else:
                scored = self._whole(*args, fused_lm_head=True, shift_labels=targets[None], **kwargs)
                values = {name: scored[name] for name in self.fields if name in scored}  # few for a reference
        finally:
            self._wanted, self._picked = None, False
        return head.scattered(values, mask)

    def _ours(self, device: torch.device) -> bool:
        """Return whether rlhf.preference.head computes the outputs: on a CPU, in float32, for unscaled logits."""
        projection = self.model.get_output_embeddings()
        plain = type(projection) is torch.nn.Linear and projection.weight.dtype is torch.float32
        scaled = any(getattr(self.model.config, name, None) not in (None, 1.0) for name in SCALES)
        return device.type == "cpu" and plain and not scaled and not torch.is_autocast_enabled("cpu")


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one is other or (one.shape == other.shape and one.device == other.device and torch.equal(one, other))


@contextmanager
def sharing(*models: Any, fields: tuple[str, ...] = head.FIELDS) -> Generator[None]:
    """Share prefixes in each of ``models`` within the context; None is skipped."""
    with ExitStack() as stack:
        for model in models:
            if model is not None:
                stack.enter_context(Sharing(model, fields))
        yield
