"""What a forward pass leaves behind for the backward pass, from shapes alone. Every factor has its one home here.

Bytes throughout. The factors were read off autograd with torch 2.13 and transformers 5.23 on a CPU, by changing one
size at a time, and tests/planning/test_activations.py reads them off again. A GPU keeps masks of dropout in a byte.
"""

from typing import NamedTuple

from rlhf.hardware.memory import FLOAT32, Shape
from rlhf.preference.head import KEPT
from rlhf.preference.head import TILE as TILED


class Family(NamedTuple):
    """Tensors that a layer keeps of each token, by how wide they are; ``memory.kept`` says which they are of the first.

    ``frozen`` fewer of ``hidden`` are kept where adapters alone learn; ``upcast`` of them are in float32 whatever the
    model is. ``matrices`` can wear an adapter, ``wide`` of them read a token ``hidden`` wide, of ``inputs`` tensors.
    ``attention``: bytes a head and a token of its row that attention keeps where it has dropout and is not fused.
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
# Queries and keys are normalised head by head: two tensors more of each, of which adapters leave one.
NORMALISED = {
    "qwen3": Family(hidden=10, keys=4, inner=4, frozen=3, upcast=2, matrices=7, wide=6, inputs=2),
}
OUTSIDE = 3  # tensors ``hidden`` wide of each token outside of the layers: the embeddings, the last norm and its output
HELD = 8  # bytes a token and layer: a number per token of each norm


class Pass(NamedTuple):
    """How tokens pass a model: ``width`` bytes an element, ``rank`` None where every weight learns.

    ``mask``: bytes of an element of a dropout mask, 0 where adapters have no dropout.
    """

    family: Family
    shape: Shape
    width: int
    rank: int | None = None
    mask: int = 0
    checkpointing: bool = False

    def per_layer(self, length: int) -> int:
        """Bytes that a layer keeps of one token of a row of ``length``.

            width · (hidden h + keys k + inner i + matrices r) + upcast · (4 - width) h + 4 heads + 8

        h hidden, k keys, i intermediate, r rank. Dropout before an adapter keeps a mask, and what passes it in the
        place of the inputs that the adapters of several matrices would share.
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
        """Of ``rows`` rows of ``length`` tokens at the end of the forward pass.

        With checkpointing each layer keeps its input alone, and one of them at a time all that it needs (Chen et al.
        2016, https://arxiv.org/abs/1604.06174).
        """
        tokens, shape = rows * length, self.shape
        outside = OUTSIDE * tokens * shape.hidden * self.width
        if not self.checkpointing:
            return outside + tokens * shape.layers * self.per_layer(length)
        return outside + tokens * (shape.layers * shape.hidden * self.width + self.per_layer(length))

    def spared(self, tokens: int, *, attention: bool) -> int:
        """What the last layer does not keep of ``tokens`` whose outputs nothing reads: its feed-forward part.

        With ``attention`` their queries, too, and what attention gives them.
        """
        each = self.family.inner * self.shape.intermediate + (2 if attention else 1) * self.shape.hidden
        return 0 if self.checkpointing else tokens * self.width * each

    def branching(self, tokens: int, seen: int) -> int:
        """What attention over a tree of segments keeps beside: rlhf/preference/segment_attention.py.

        Outputs of segments before they are joined, keys and values of the ``seen`` tokens of rows that follow on a
        prompt, once for each row, and all of them as many times as heads share them.
        """
        shape = self.shape
        grouped = 2 * (shape.hidden - shape.keys) * tokens if shape.keys < shape.hidden else 0
        each = self.width * (2 * shape.hidden * seen + shape.hidden * tokens + grouped)
        return each * (1 if self.checkpointing else shape.layers)


def family_of(model_type: str) -> Family:
    """That of an architecture; one that is not listed is taken for a gated one."""
    return FAMILIES.get(model_type) or NORMALISED.get(model_type) or GATED


# Of what is as wide as the vocabulary: tensors at once, of every token that is counted with each.
# Tokens and entries that TRL 1.16's fused head works on at a time (trl/kernels/chunked_logprob.py).
TILE = (4096, 32768)
FUSED_BACKWARD = 8.25  # float32, on a CPU; a Triton kernel works in one tile of the model's type, in place
FUSED_FORWARD = 4.25
CROSS_ENTROPY = 3.0  # of transformers' own loss: logits, their logarithms, the gradient; float32
# Logits per response token in the model's dtype; their gradient is written in place (rlhf/modeling/logprobs.py).
PPO_LEARNING = 1
PPO_TILES = 4  # tiles of it in float32 beside
PPO_SAMPLING = 3  # of one token a row: logits, divided by the temperature, cumulated; rlhf/modeling/decoding.py
# Of a layer at work, tensors ``hidden`` and ``intermediate`` wide of each token, kept or not.
AT_WORK = (3, 3)


def at_work(shape: Shape, tokens: int, width: int, inner: int | None = None) -> int:
    """What one layer holds at once while tokens pass it, forward or backward, beside what it keeps.

    Its feed-forward part works on ``inner`` of them where it is the last one, and other outputs are not read.
    """
    inner = tokens if inner is None else inner
    return width * (tokens * AT_WORK[0] * shape.hidden + inner * AT_WORK[1] * shape.intermediate)


def fused_head(shape: Shape, tokens: int, width: int, copies: float, gpu: bool) -> int:
    """Of TRL's fused head, which scores a tile of tokens and of the vocabulary at a time; see TILE."""
    tile = min(tokens, TILE[0]) * min(shape.vocabulary, TILE[1])
    return tile * width if gpu else int(tile * copies * FLOAT32)


def own_head(shape: Shape, tokens: int, *, learns: bool) -> int:
    """Of rlhf/preference/head.py, on a CPU in float32: two tiles, or where it learns all probabilities and a tile."""
    tile = min(max(TILED // shape.vocabulary, 1), tokens) * shape.vocabulary
    entries = tokens * shape.vocabulary
    if not learns:
        return 2 * tile * FLOAT32
    return (entries + tile if entries <= KEPT else max(2 * tile, KEPT)) * FLOAT32


def logits(shape: Shape, tokens: int, copies: float) -> int:
    """Of every token at once, in float32 whatever the model is."""
    return int(tokens * shape.vocabulary * copies * FLOAT32)
