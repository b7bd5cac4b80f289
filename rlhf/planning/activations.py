"""Memory that a forward pass keeps for the backward pass, computed from shapes. All of its factors are defined here.

All sizes are in bytes. The factors were measured from autograd with torch 2.13 and transformers 5.23 on a CPU, by
changing one size at a time; tests/planning/test_activations.py measures them again. A GPU's dropout mask is in bytes.
"""

from typing import NamedTuple

from rlhf.hardware.memory import FLOAT32, Shape
from rlhf.modeling import logprobs
from rlhf.preference.head import KEPT
from rlhf.preference.head import TILE as TILED


class Family(NamedTuple):
    """Numbers of tensors that a layer keeps per token, by width.

    ``frozen`` fewer of ``hidden`` are kept if only adapters learn; ``upcast`` of them are float32 in any model dtype.
    ``matrices`` can have an adapter; ``wide`` of them read inputs of width ``hidden``, from ``inputs`` tensors.
    ``attention``: bytes per head, token and token of its row that attention with dropout keeps if it is not fused.
    """

    hidden: int
    keys: int
    inner: int
    frozen: int
    upcast: int
    matrices: int
    wide: int
    inputs: int
    attention: int = 0


GATED = Family(hidden=8, keys=2, inner=4, frozen=2, upcast=2, matrices=7, wide=6, inputs=2)
FAMILIES = {
    "gpt_neox": Family(hidden=10, keys=0, inner=2, frozen=0, upcast=0, matrices=4, wide=3, inputs=3),
    "gpt2": Family(hidden=10, keys=0, inner=5, frozen=0, upcast=3, matrices=4, wide=3, inputs=3, attention=12),
}
# Queries and keys are normalized per head, which keeps two more tensors of each; adapters save one.
NORMALIZED = {
    "qwen3": Family(hidden=10, keys=4, inner=4, frozen=3, upcast=2, matrices=7, wide=6, inputs=2),
}
OUTSIDE = 3  # tensors of width ``hidden`` per token outside the layers: the embeddings, the last norm and its output
HELD = 8  # bytes per token and layer: one float32 per norm


class Pass(NamedTuple):
    """A forward pass in training: ``width`` bytes per element, ``rank`` of the adapters, or None without adapters.

    ``mask``: bytes per element of a dropout mask, 0 if adapters have no dropout.
    """

    family: Family
    shape: Shape
    width: int
    rank: int | None = None
    mask: int = 0
    checkpointing: bool = False

    def per_layer(self, length: int) -> int:
        """Return the bytes that a layer keeps per token of a row of ``length`` tokens.

            width · (hidden h + keys k + inner i + matrices r) + upcast · (4 - width) h + 4 heads + 8

        h hidden, k keys, i intermediate, r rank. Dropout before an adapter keeps a mask and its output per matrix,
        instead of the input that the adapters of several matrices share.
        """
        family, shape, width = self.family, self.shape, self.width
        hidden = family.hidden - (family.frozen if self.rank is not None else 0)
        each = width * (hidden * shape.hidden + family.keys * shape.keys + family.inner * shape.intermediate)
        each += family.upcast * (FLOAT32 - width) * shape.hidden + FLOAT32 * shape.heads + HELD
        each += family.attention * shape.heads * length
        if self.rank is not None:
            each += FLOAT32 * family.matrices * self.rank
            if self.mask:
                more = family.wide * (self.mask + width) - family.inputs * width
                each += more * shape.hidden + self.mask * shape.intermediate
        return each

    def kept(self, rows: int, length: int) -> int:
        """Return the bytes that ``rows`` rows of ``length`` tokens keep at the end of the forward pass.

        With checkpointing each layer keeps only its input, and one layer at a time is recomputed (Chen et al. 2016,
        https://arxiv.org/abs/1604.06174).
        """
        tokens, shape = rows * length, self.shape
        outside = OUTSIDE * tokens * shape.hidden * self.width
        if not self.checkpointing:
            return outside + tokens * shape.layers * self.per_layer(length)
        return outside + tokens * (shape.layers * shape.hidden * self.width + self.per_layer(length))

    def spared(self, tokens: int, *, attention: bool) -> int:
        """Return the bytes that the last layer saves on ``tokens`` whose outputs are not used: its feed-forward part.

        With ``attention`` it also saves their queries and the outputs of attention.
        """
        each = self.family.inner * self.shape.intermediate + (2 if attention else 1) * self.shape.hidden
        return 0 if self.checkpointing else tokens * self.width * each

    def branching(self, tokens: int, seen: int) -> int:
        """Return the additional bytes that attention over a tree of segments keeps.

        They are the outputs of segments before they are joined, and the keys and values of the ``seen`` tokens, once
        for each response and repeated for heads that share them; see rlhf/modeling/segment_attention.py.
        """
        shape = self.shape
        grouped = 2 * (shape.hidden - shape.keys) * tokens if shape.keys < shape.hidden else 0
        each = self.width * (2 * shape.hidden * seen + shape.hidden * tokens + grouped)
        return each * (1 if self.checkpointing else shape.layers)


def family_of(model_type: str) -> Family:
    """Return the factors of an architecture; unlisted ones are assumed to have a gated feed-forward part."""
    return FAMILIES.get(model_type) or NORMALIZED.get(model_type) or GATED


# Tensors as wide as the vocabulary that exist at the same time, per token.
# Tokens and vocabulary entries that TRL 1.16's fused head processes at a time (trl/kernels/chunked_logprob.py).
TILE = (4096, 32768)
FUSED_BACKWARD = 8.25  # float32, on a CPU; a Triton kernel works in place in one tile of the model's dtype
FUSED_FORWARD = 4.25
CROSS_ENTROPY = 3.0  # transformers' loss: logits, log-probabilities, gradient; float32
# Logits per response token in the model's dtype; their gradient is written in place (rlhf/modeling/logprobs.py).
PPO_LEARNING = 1
TILES = 4  # additional tiles in float32
PPO_SAMPLING = 3  # per row, for one token: logits, scaled logits, cumulative sums; rlhf/modeling/decoding.py
# Temporary tensors of a layer per token, of widths ``hidden`` and ``intermediate``.
AT_WORK = (3, 3)


def at_work(shape: Shape, tokens: int, width: int, inner: int | None = None) -> int:
    """Return the bytes of one layer's temporary tensors, forward or backward, in addition to those that it keeps.

    ``inner``: the tokens whose outputs of the last layer are used, which its feed-forward part is computed for.
    """
    inner = tokens if inner is None else inner
    return width * (tokens * AT_WORK[0] * shape.hidden + inner * AT_WORK[1] * shape.intermediate)


def fused_head(shape: Shape, tokens: int, width: int, copies: float, gpu: bool) -> int:
    """Return the bytes of TRL's fused head, which processes a tile of tokens and vocabulary at a time; see TILE."""
    tile = min(tokens, TILE[0]) * min(shape.vocabulary, TILE[1])
    return tile * width if gpu else int(tile * copies * FLOAT32)


def own_head(shape: Shape, tokens: int, *, learns: bool) -> int:
    """Return the bytes of rlhf/preference/head.py on a CPU in float32.

    They are the logits of all tokens up to a limit, which is larger if the head learns, and small tiles.
    """
    rows = min(max((KEPT if learns else TILED) // shape.vocabulary, 1), tokens)
    return rows * shape.vocabulary * FLOAT32 + tiles(shape)


def tiles(shape: Shape) -> int:
    """Return the bytes of the tiles in which rlhf/modeling/logprobs.py processes logits."""
    return TILES * max(logprobs.TILE, shape.vocabulary) * FLOAT32


def logits(shape: Shape, tokens: int, copies: float) -> int:
    """Return the bytes of ``copies`` of the float32 logits (T, V) of all ``tokens``."""
    return int(tokens * shape.vocabulary * copies * FLOAT32)
