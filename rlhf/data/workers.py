"""Map batches over several processes, in order: the result is that of one process.

A worker is a new Python process, which imports what it needs in about two seconds, so only large data uses workers.
"""

import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any

from rlhf.errors import DataError

ENOUGH = 20_000  # rows below which one process is faster than the start of more
MOST = 8  # workers by default: each takes some 200 MB of memory
AHEAD = 3  # batches per worker that are computed or wait

_job: tuple[Callable[..., Any], tuple[Any, ...]]


def count(processes: int | None) -> int:
    """Return the number of processes for large data; None: one per core, at most `MOST`.

    The processes of a run on one machine (torchrun's LOCAL_WORLD_SIZE) share its cores.
    """
    if processes is not None:
        return processes
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), MOST), 1)


def sendable(tokenizer: Any) -> bool:
    """Return whether another process can load a pickled tokenizer: its class is not in code of a model's repository."""
    if type(tokenizer).__module__.startswith("transformers_modules"):
        return False
    try:
        return bool(pickle.dumps(tokenizer))
    except (AttributeError, TypeError, ValueError, pickle.PicklingError):
        return False


def mapped(function: Callable[..., Any], given: tuple[Any, ...], tasks: Iterable[Any], processes: int) -> Iterator[Any]:
    """Yield ``function(*given, task)`` of each task, in order; ``given`` is sent to each worker once.

    Memory does not grow with the number of tasks. Errors of ``function`` are raised at the place of their task.

    Raises:
        DataError: a worker ended, for example for lack of memory.
    """
    if processes == 1:
        yield from (function(*given, task) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_start, initargs=(function, given))
    waiting: deque[Future] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(_run, task))
            if len(waiting) == AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise DataError(
            f"one of {processes} processes that read and tokenize rows ended unexpectedly, probably for lack of "
            "memory: set data.processes=1"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start(function: Callable[..., Any], given: tuple[Any, ...]) -> None:
    global _job
    _job = function, given
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes already use all cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is handled by the parent
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process if its parent is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _run(task: Any) -> Any:
    function, given = _job
    return function(*given, task)
