"""Parallel jobs on one machine: their number, and each job's share of the cores and GPUs.

A launcher's preset sets the number (conf/launcher/). Each job locks one slot file; the operating system releases the
lock when the process ends, for whatever reason.
"""

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

JOBS_AT_ONCE = "RLHF_JOBS"  # set by conf/launcher/ in each job; absent: jobs run one after the other in this process
WAIT = 0.5  # seconds between two searches for a free slot
_GPUS = "CUDA_VISIBLE_DEVICES"
_taken: dict[str, tuple[int, IO]] = {}  # a process keeps its slot from job to job: CUDA cannot change its device


@contextmanager
def one(folder: Path) -> Generator[int | None]:
    """Hold a slot of the sweep with records in ``folder``; yield the number of threads, None for no limit."""
    count = at_once()
    if count is None:
        yield None
        return
    number = _claim(folder, count)
    devices = gpus()
    if len(devices) > 1:
        os.environ[_GPUS] = devices[number % len(devices)]
    yield share(count)


def at_once() -> int | None:
    """Return how many jobs run at once on this machine, or None if they run one after the other."""
    text = os.environ.get(JOBS_AT_ONCE)
    if text is None:
        return None
    return cores() if int(text) < 1 else int(text)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(count: int) -> int:
    """Return the threads of each of ``count`` jobs: at least 1, at most OMP_NUM_THREADS if that is set."""
    own = max(1, cores() // count)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(own, int(asked)) if asked.isdigit() and int(asked) else own


def gpus() -> list[str]:
    """Return the devices of this process as in CUDA_VISIBLE_DEVICES, without initializing CUDA."""
    given = os.environ.get(_GPUS)
    if given is not None:
        return [name for name in given.split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _claim(folder: Path, count: int) -> int:
    key = str(folder.resolve())
    if key in _taken:
        return _taken[key][0]
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        for number in range(count):
            file = (folder / f"slot-{number}").open("w")
            if lock_descriptor(file.fileno(), blocking=False):
                _taken[key] = number, file
                return number
            file.close()
        time.sleep(WAIT)
