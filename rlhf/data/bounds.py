"""Bounds on templates and tokenizers of other people: time, memory, and characters that are tokenized at once."""

import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

SECONDS = 60.0
ROOM = 2 * 2**30  # bytes
AT_ONCE = 2**21  # characters that are tokenized at once: a tokenizer of bytes takes 280 to 630 bytes of memory for each


def token_ids(tokenizer: Any, texts: Sequence[str], **options: Any) -> list[list[int]]:
    """Return the token ids of texts. Memory beside the ids does not grow with the number of texts."""
    return [ids for part in parts(texts) for ids in _ids(tokenizer, part, options)]


def _ids(tokenizer: Any, texts: list[str], options: dict[str, Any]) -> list[list[int]]:
    """Encode texts without offsets and masks, in three quarters of the time, if the tokenizer has a backend for it."""
    if getattr(tokenizer, "is_fast", False) and len(texts) > 1:
        first = tokenizer(texts[0], **options)["input_ids"]  # sets the options of the backend, too
        special = options.get("add_special_tokens", True)
        found = [one.ids for one in tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=special)]
        if found[0] == first:
            return found
    return tokenizer(texts, **options)["input_ids"]


def parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield texts in their order in parts of at most AT_ONCE characters; a longer text is a part."""
    part: list[str] = []
    length = 0
    for text in texts:
        if part and length + len(text) > AT_ONCE:
            yield part
            part, length = [], 0
        part.append(text)
        length += len(text)
    if part:
        yield part


@contextmanager
def bounded(seconds: float | None = None, room: int | None = None) -> Generator[None]:
    """Stop the code in the context after ``seconds``, and limit its memory to ``room`` bytes more than now.

    Time is bounded only in the main thread, and only between Python instructions: a call into C that never returns is
    not stopped. Memory is bounded only on Linux. The defaults are SECONDS and ROOM.

    Raises:
        TimeoutError: the code took too long.
        MemoryError: the code asked for more memory.
    """
    with time_limit(SECONDS if seconds is None else seconds), _memory(ROOM if room is None else room):
        yield


@contextmanager
def time_limit(seconds: float, error: type[BaseException] = TimeoutError) -> Generator[None]:
    """Raise ``error`` in the code in the context if it takes longer than ``seconds``; `bounded` says when it cannot."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise error(f"it has not ended after {seconds:g} seconds")

    begun, before = time.monotonic(), signal.signal(signal.SIGALRM, stop)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:  # an alarm that was set before
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - begun), 1e-3), interval)


@contextmanager
def _memory(room: int) -> Generator[None]:
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
