"""Shapes of models, what is free of a machine's memory, and what was taken of it; rlhf/planning/ has the formulas.

Bytes throughout; ``width`` is the bytes of an element.
"""

import ctypes
import gc
import os
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from rlhf.console import console
from rlhf.storage.digests import peak_memory

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


def cache(shape: Shape, rows: int, length: int, width: int) -> int:
    """Keys and values of every layer while rows are sampled: 2 · rows · length · layers · k · width.

    When rows that have ended are dropped, a layer's are copied at a time, which is one layer more.
    """
    return 2 * rows * length * (shape.layers + 1) * shape.keys * width


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
    resident size, and forgets it when asked to (proc(5), clear_refs); elsewhere it is that of the whole process. What
    getrusage(2) tells is not asked for on Linux: there a process begins with the highest of the one that started it.
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
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else highest()
        return Measured(self.device.type, self.before, max(peak - self.before, 0), self.exact)


def highest() -> int:
    """The highest resident size of this process, since Linux was last asked to forget it."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return peak_memory()


def available(device: torch.device) -> int:
    """What is free: of the GPU, or of the machine."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def compare(title: str, planned: int, measured: Measured) -> dict[str, Any]:
    """Say how far the planned peak was off, and give what run.json holds of both."""
    deviation = planned / measured.peak - 1 if measured.peak else 0.0
    kept = ", with freed memory that is kept for reuse" if measured.device == "cpu" and keeps_freed() else ""
    bound = "" if measured.exact else "at most "  # an earlier peak of this process may hide it
    off = f"planned {size(planned)}, {abs(deviation):.0%} too {'low' if deviation < 0 else 'high'}"
    console.print(f"{title}: peak {bound}{size(measured.peak)}{kept} ({off})", highlight=False, soft_wrap=True)
    return {"planned": planned, "measured": measured.record(), "deviation": round(deviation, 4)}


def keeps_freed() -> bool:
    """Whether ``keep_freed`` is asked for anything here: with glibc, unless somebody has said what it should do."""
    return sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ)


def keep_freed() -> bool:
    """Let the process keep what it frees, for the next step to use: whether it could be asked for.

    glibc maps large blocks and gives them back, so that every step asks the kernel for its activations anew and touches
    each page for the first time, a tenth to a third of the time of training a small model on a CPU. What was said by
    ``MALLOC_`` variables stands. mallopt(3); the parameters' numbers are those of malloc.h.
    """
    if not keeps_freed():
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
