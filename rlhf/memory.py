"""The memory that models take, from shapes alone, before any of them is loaded; and what they took.

Bytes throughout. The formulas count elements of the tensors that PyTorch keeps; ``width`` is the bytes of one of them.
They are those of a decoder with gated feed-forward layers and fused attention (Llama, Mistral, Qwen, SmolLM), which
they give to within a per cent in float32; other architectures differ in the factors, not in what they grow with.
"""

import ctypes
import gc
import os
import resource
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from rich.table import Table

from rlhf.progress import console

FLOAT32 = 4
# A nibble, and for every 64 of them a scale of a byte, itself scaled by one float32 for 256 of those (Dettmers et al.
# 2023, https://arxiv.org/abs/2305.14314, section 3: 4.127 bits).
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Shape:
    """Of a decoder: ``keys`` is the width of keys and of values, with grouped queries less than ``hidden``."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    keys: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """From a transformers configuration; what its architecture does not have, counts nothing."""
        text = config.get_text_config()
        heads, hidden = getattr(text, "num_attention_heads", 0), text.hidden_size
        per_head = getattr(text, "head_dim", None) or hidden // max(heads, 1)
        groups = getattr(text, "num_key_value_heads", None) or heads
        inner = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * hidden
        return cls(text.num_hidden_layers, hidden, inner, heads, groups * per_head, text.vocab_size)


def adam(trainable: int, width: int) -> int:
    """Two moments of every trained parameter, in its type. Kingma and Ba 2015, https://arxiv.org/abs/1412.6980."""
    return 2 * trainable * width


def kept(shape: Shape, tokens: int, width: int, rank: int | None = None) -> int:
    """What the forward pass of the layers keeps for the backward pass, for ``tokens`` = rows · length.

        tokens · layers · width · (8 h + 2 k + 4 i + heads + 2)

    h hidden, k keys, i intermediate: each norm keeps its input and, for its own gain's gradient, the normalised input
    and the output that feeds the matrices (3 h, twice); attention keeps queries, keys, values, its output and one
    logarithm per head (2 h + 2 k + heads); the feed-forward layer its gate, the gate's activation, the other half and
    their product (4 i). Under adapters of ``rank`` the gains are frozen and 2 h less are kept, but the ``rank``
    projections of each of the seven matrices.
    """
    frozen = 0 if rank is None else 7 * rank - 2 * shape.hidden
    each = 8 * shape.hidden + 2 * shape.keys + 4 * shape.intermediate + shape.heads + 2 + frozen
    return tokens * shape.layers * width * each


def passing(shape: Shape, tokens: int, width: int) -> int:
    """What one layer holds at once while tokens pass, kept or not: tokens · width · (3 h + 3 i)."""
    return tokens * width * 3 * (shape.hidden + shape.intermediate)


def vocabulary_wide(shape: Shape, tokens: int, copies: int) -> int:
    """tokens · V · copies, in float32: logits, their logarithms, gradients, probabilities."""
    return tokens * shape.vocabulary * copies * FLOAT32


def cache(shape: Shape, rows: int, length: int, width: int) -> int:
    """Keys and values of every layer while rows are sampled: 2 · rows · length · layers · k · width.

    When rows that have ended are dropped, a layer's are copied at a time, which is one layer more.
    """
    return 2 * rows * length * (shape.layers + 1) * shape.keys * width


class Line(NamedTuple):
    """What one role takes, in bytes; ``activations`` while it is at work, the others all the time."""

    role: str
    parameters: int
    trainable: int
    dtype: str
    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def stays(self) -> int:
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True)
class Plan:
    """Roles work one after the other: the peak is everything that stays and the activations of the most expensive.

    Or it is reached before anything works: while a model is read, the pages of its file count beside its weights as
    resident, where ``reads``, as on a machine without a GPU. They are at most as many as its weights.
    """

    lines: list[Line]
    reads: bool = False

    @property
    def working(self) -> int:
        return sum(line.stays for line in self.lines) + max(line.activations for line in self.lines)

    @property
    def reading(self) -> int:
        weights = [line.weights for line in self.lines]
        return sum(weights) + max(weights) if self.reads else 0

    @property
    def peak(self) -> int:
        return max(self.working, self.reading)

    def record(self) -> dict[str, Any]:
        """For run.json."""
        return {"planned": self.peak, "roles": {line.role: line._asdict() for line in self.lines}}


@dataclass(frozen=True)
class Measured:
    """Peak above what was there before; ``exact`` is false where an earlier and higher peak may hide it."""

    device: str
    before: int
    peak: int
    exact: bool

    def record(self) -> dict[str, Any]:
        return asdict(self)


class Meter:
    """Measures the peak from its making on: of a GPU what PyTorch allocates, else the resident memory of the process.

    What earlier work has freed is given back first, so that it is not taken for the start. Linux keeps the highest
    resident size, and forgets it when asked to (proc(5), clear_refs); elsewhere it is that of the whole process.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.exact = True
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
            return
        gc.collect()
        give_back()
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            self.exact = False
        self.before = psutil.Process().memory_info().rss

    def read(self) -> Measured:
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Measured(self.device.type, self.before, max(peak - self.before, 0), self.exact)


def available(device: torch.device) -> int:
    """What is free: of the GPU, or of the machine."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def show(title: str, plan: Plan, device: torch.device) -> None:
    """The plan as a table, and whether it fits."""
    table = Table(title=f"{title}: memory, planned", title_justify="left")
    table.add_column("role")
    for heading in ("parameters", "trained", "type", "weights", "gradients", "optimizer", "activations", "total"):
        table.add_column(heading, justify="right")
    for line in plan.lines:
        sizes = (line.weights, line.gradients, line.optimizer, line.activations, line.stays + line.activations)
        table.add_row(line.role, count(line.parameters), count(line.trainable), line.dtype, *map(size, sizes))
    columns = [list(column) for column in zip(*plan.lines, strict=True)]
    sizes = [*map(sum, columns[4:7]), max(columns[7]), plan.working]
    table.add_section()
    table.add_row("together", count(sum(columns[1])), count(sum(columns[2])), "", *map(size, sizes))
    console.print(table)
    free, where = available(device), "this GPU" if device.type == "cuda" else "this machine"
    reading = ", while weights are read," if plan.reading > plan.working else ""
    sentence = f"{title}: {size(plan.peak)} at the peak{reading} beside {size(free)} free on {where}"
    if plan.peak > free:
        sentence += ", which is too much: lower stage.micro_batch_tokens or stage.batch_size, or use adapter=lora"
    console.print(sentence, highlight=False, soft_wrap=True)


def compare(title: str, plan: Plan, measured: Measured) -> dict[str, Any]:
    """Say how far the plan was off, and give what run.json holds of both."""
    deviation = plan.peak / measured.peak - 1 if measured.peak else 0.0
    bound = "" if measured.exact else " at most, since an earlier peak of this process may hide it"
    console.print(
        f"{title}: {size(measured.peak)} measured{bound}, {size(plan.peak)} planned: {deviation:+.0%}",
        highlight=False,
        soft_wrap=True,
    )
    return plan.record() | {"measured": measured.record(), "deviation": round(deviation, 4)}


def keep_freed() -> bool:
    """Let the process keep what it frees, for the next step to use: whether it could be asked for.

    glibc maps large blocks and gives them back, so that every step asks the kernel for its activations anew and touches
    each page for the first time, a tenth to a third of the time of training a small model on a CPU. What was said by
    ``MALLOC_`` variables stands. mallopt(3); the parameters' numbers are those of malloc.h.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    trim_threshold, mmap_threshold, most = -1, -3, 2**31 - 1
    return bool(mallopt(trim_threshold, most) and mallopt(mmap_threshold, most))


def give_back() -> None:
    """Free pages go back to the kernel, so that the next kind of work does not find them in pieces; malloc_trim(3)."""
    with suppress(OSError, AttributeError):  # of glibc alone
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def size(number: float) -> str:
    """Bytes as a person reads them, in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if abs(number) < 1000:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} GiB"


def count(number: int) -> str:
    """Parameters as a person reads them."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return str(number)
