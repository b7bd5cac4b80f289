"""Bounds on code that somebody else wrote: a chat template runs for so long, and takes so much memory, and no more."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SECONDS = 60.0
ROOM = 2 * 2**30  # bytes


@contextmanager
def bounded(seconds: float | None = None, room: int | None = None) -> Iterator[None]:
    """Stop what runs within after ``seconds``, and let it take ``room`` more bytes than there are now.

    Time is bounded in the main thread, and between two steps of Python: one that takes forever by itself is not
    stopped. Memory is bounded on Linux. None: SECONDS, ROOM.

    Raises:
        TimeoutError: it has taken too long.
        MemoryError: it has asked for more memory.
    """
    with _time(SECONDS if seconds is None else seconds), _memory(ROOM if room is None else room):
        yield


@contextmanager
def _time(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it has not ended after {seconds:g} seconds")

    begun, before = time.monotonic(), signal.signal(signal.SIGALRM, stop)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:  # somebody else's alarm
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - begun), 1e-3), interval)


@contextmanager
def _memory(room: int) -> Iterator[None]:
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource  # POSIX only

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + room
    if soft != resource.RLIM_INFINITY:
        most = min(most, soft)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
