"""Shapes of models, free memory and measured peaks; the formulas of a plan are in rlhf/planning/.

Bytes throughout; ``width`` is the bytes per element.
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
# Half a byte, a scale of one byte per 64 weights, and a float32 scale per 256 of those scales (Dettmers et al. 2023,
# https://arxiv.org/abs/2305.14314, section 3: 4.127 bits).
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Shape:
    """The shape of a decoder; ``keys`` is the width of keys and of values, below ``hidden`` with grouped queries."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    keys: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """Return the shape of a transformers configuration; ``heads`` and ``keys`` are 0 without attention."""
        text = config.get_text_config()
        heads, hidden = getattr(text, "num_attention_heads", 0), text.hidden_size
        per_head = getattr(text, "head_dim", None) or hidden // max(heads, 1)
        groups = getattr(text, "num_key_value_heads", None) or heads
        inner = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * hidden
        return cls(text.num_hidden_layers, hidden, inner, heads, groups * per_head, text.vocab_size)


def cache(shape: Shape, rows: int, length: int, width: int) -> int:
    """Return the bytes of all keys and values while rows are sampled: 2 · rows · length · (layers + 1) · keys · width.

    Finished rows are dropped by copying one layer at a time, which takes one layer more.
    """
    return 2 * rows * length * (shape.layers + 1) * shape.keys * width


@dataclass(frozen=True)
class Measured:
    """A peak above the memory used ``before``; ``exact`` is false if an earlier, higher peak may hide it."""

    device: str
    before: int
    peak: int
    exact: bool

    def record(self) -> dict[str, Any]:
        """Return the fields, for run.json."""
        return asdict(self)


class Meter:
    """A measurement of the peak since its creation: PyTorch's allocations on a GPU, else the resident memory.

    Freed memory is returned to the kernel first, so that it does not count as used before. Linux resets the highest
    resident size on request (proc(5), clear_refs); elsewhere it is that of the whole process. getrusage(2) is not used
    on Linux, since a process inherits the highest size of its parent there.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.exact = True
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
            return
        release()
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            self.exact = False
        self.before = psutil.Process().memory_info().rss

    def read(self) -> Measured:
        """Return the peak since the meter was created."""
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else highest()
        return Measured(self.device.type, self.before, max(peak - self.before, 0), self.exact)


def highest() -> int:
    """Return the highest resident size of this process, on Linux since the last reset."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return peak_memory()


def available(device: torch.device) -> int:
    """Return the free memory of the GPU, or of the machine."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def compare(title: str, planned: int, measured: Measured) -> dict[str, Any]:
    """Print how far the planned peak was off, and return both for run.json."""
    deviation = planned / measured.peak - 1 if measured.peak else 0.0
    kept = ", with freed memory that is kept for reuse" if measured.device == "cpu" and keeps_freed() else ""
    bound = "" if measured.exact else "at most "  # an earlier peak of this process may hide it
    off = f"planned {size(planned)}, {abs(deviation):.0%} too {'low' if deviation < 0 else 'high'}"
    console.print(f"{title}: peak {bound}{size(measured.peak)}{kept} ({off})", highlight=False, soft_wrap=True)
    return {"planned": planned, "measured": measured.record(), "deviation": round(deviation, 4)}


def keeps_freed() -> bool:
    """Return whether ``keep_freed`` has an effect: on Linux, unless the user has set a ``MALLOC_`` variable."""
    return sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ)


def keep_freed() -> bool:
    """Let the process keep freed memory for the next step; return whether this is possible.

    glibc maps large blocks and unmaps them, so every step allocates its activations again and touches each page for
    the first time: a tenth to a third of the time of training a small model on a CPU. ``MALLOC_`` variables of the user
    take precedence. mallopt(3); the parameters' numbers are those of malloc.h.
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
    """Return free pages to the kernel, so that later work does not find them fragmented; malloc_trim(3)."""
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def release() -> None:
    """Collect garbage and return free memory to the kernel, also the memory that ``keep_freed`` keeps."""
    gc.collect()
    give_back()


def size(number: float) -> str:
    """Return a number of bytes as readable text, in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if abs(number) < 1000:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} GiB"


def count(number: int) -> str:
    """Return a number of parameters as readable text."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return str(number)
