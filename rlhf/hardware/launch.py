"""Start the processes of a run on this machine, wait for them, and report how they ended.

One process composes and checks the settings, without Hydra in the ranks. torch's elastic agent starts the ranks, and
the first rank's value is the value of the run. If one rank fails or dies, the others are ended at once.
"""

import logging
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from pathlib import Path
from typing import Any, NamedTuple

from rlhf import errors
from rlhf.config import Hardware
from rlhf.errors import ConfigError, RlhfError, TrainingError
from rlhf.hardware import ranks

# Longer than the agent's poll interval: it must see a failed rank before the ranks that fail because they miss it.
LAST_WORDS = 1.0  # seconds
STOPPING = 60  # seconds that a rank has to end after a signal, before it is killed
HANDLED = tuple(  # signals on which the agent ends the ranks; Windows has only the first
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)
)
CAUSES = {  # signal that ended a rank -> probable cause
    "SIGKILL": "often out of memory",
    "SIGTERM": "terminated from outside",
    "SIGHUP": "its terminal was closed",
    "SIGINT": "interrupted from outside",
}
LOGGERS = ("torch.distributed.elastic", "torch.multiprocessing.spawn")


class Note(NamedTuple):
    """How a rank ended, with its value or its error."""

    ending: str  # finished, interrupted, refused or broken
    value: Any
    when: float  # seconds since the epoch


def start(work: Callable[..., Any], *arguments: Any, hardware: Hardware) -> Any:
    """Run ``work(*arguments)`` in every rank and return the first rank's value; ``work`` must be a module's function.

    Raises:
        RlhfError: the error of a rank, unchanged; or a rank was killed.
        KeyboardInterrupt: the run was interrupted, and the ranks have ended in order.
        RuntimeError: a rank failed on a defect; the text is its traceback.
    """
    with tempfile.TemporaryDirectory(prefix="rlhf-ranks-") as folder, _quiet_agent(), _environment(hardware):
        notes = Path(folder)
        failure = _run_agent(work, arguments, notes, hardware)
        found = {int(path.stem): pickle.loads(path.read_bytes()) for path in notes.glob("*.note")}
    endings = {note.ending for note in found.values()}
    here = ranks.local(hardware)
    if len(found) == here and endings == {"finished"}:  # whatever the exit codes: gloo's threads may abort an exit
        return found[min(found)].value
    if "interrupted" in endings and endings <= {"finished", "interrupted"}:
        raise KeyboardInterrupt
    raise _reason(found, failure)


def _run_agent(work: Callable[..., Any], arguments: tuple, notes: Path, hardware: Hardware) -> "tuple[int, int] | None":
    """Run the ranks to their end; return rank and exit code of the first failure, None without a failure."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    alone = hardware.nodes == 1
    host = {} if hardware.node_rank is None else {"is_host": hardware.node_rank == 0}
    config = LaunchConfig(
        min_nodes=hardware.nodes,
        max_nodes=hardware.nodes,
        nproc_per_node=ranks.local(hardware),
        run_id=hardware.run_id,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0" if alone else hardware.rendezvous or "",
        rdzv_configs={} if alone else host,
        local_addr="127.0.0.1" if alone else None,
        max_restarts=0,
        start_method="spawn",
        signals_to_handle=",".join(one.name for one in HANDLED),
        shutdown_timeout=STOPPING,
    )
    try:
        with _interrupts_forwarded():
            elastic_launch(config, _rank)(work, arguments, str(notes), _ignored_warnings())
    except ChildFailedError as error:
        first, failure = error.get_first_failure()
        return first, failure.exitcode
    except SignalException as error:
        raise SystemExit(128 + error.sigval) from None
    except RendezvousError as error:
        raise ConfigError(
            f"hardware.rendezvous={hardware.rendezvous}: the machines did not meet there ({error}): use an address "
            "that all of them reach, and start the same command on each"
        ) from error
    return None


def _reason(found: dict[int, Note], failure: tuple[int, int] | None) -> BaseException:
    """Return the cause of a failed run: a rank's own error, else the signal that killed a rank, else a follow-up."""
    for note in found.values():
        if note.ending == "refused":
            kind, text = note.value
            return getattr(errors, kind)(text)
    if failure is not None and failure[1] < 0:
        name = signal.Signals(-failure[1]).name
        cause = CAUSES.get(name, "a crash")
        return TrainingError(
            f"rank {failure[0]} was ended by {name} ({cause}), and the others with it: "
            "resume=true continues from the latest checkpoint"
        )
    for rank, note in sorted(found.items(), key=lambda item: item[1].when):  # ranks that miss it fail later
        if note.ending == "broken":
            return RuntimeError(f"rank {rank} failed:\n{note.value}")
    return TrainingError(
        "the processes of the run ended on another machine or without an error: "
        "resume=true continues from the latest checkpoint"
    )


def _ignored_warnings() -> list[tuple[str, Any]]:
    """Return the warnings that this process ignores, by the pattern of their text and their class."""
    return [(one[1].pattern, one[2]) for one in warnings.filters if one[0] == "ignore" and one[1] is not None]


def _rank(work: Callable[..., Any], arguments: tuple, notes: str, ignored: list[tuple[str, Any]]) -> None:
    """Do the work of a rank, and write a note of how it ended."""
    import torch.distributed

    for pattern, kind in ignored:
        warnings.filterwarnings("ignore", pattern, kind)
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C in a terminal then reaches only the parent, which forwards it once
    place = Path(notes) / f"{ranks.rank()}.note"
    try:
        note = Note("finished", work(*arguments), time.time())
    except KeyboardInterrupt:
        note = Note("interrupted", None, time.time())
    except RlhfError as error:
        note = Note("refused", (_kind(error), str(error)), time.time())
    except BaseException:
        note = Note("broken", traceback.format_exc(), time.time())
    aside = place.with_suffix(".tmp")
    aside.write_bytes(pickle.dumps(note))
    os.replace(aside, place)
    if note.ending in ("refused", "broken"):
        if note.ending == "broken":
            time.sleep(LAST_WORDS)
        os._exit(1)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _kind(error: RlhfError) -> str:
    """Return the name of the error's class, or of its nearest base class in rlhf.errors."""
    return next(kind.__name__ for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)


@contextmanager
def _interrupts_forwarded() -> Generator[None]:
    """Let Ctrl-C end the ranks, which save a checkpoint, instead of the wait for them."""

    def forward(number: int, frame: Any) -> None:
        for pid in [child.pid for child in active_children() if child.pid is not None]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    handled = (signal.SIGINT, *HANDLED)
    before = {one: signal.getsignal(one) for one in handled}
    try:
        with suppress(ValueError):  # outside the main thread signals cannot be handled
            signal.signal(signal.SIGINT, forward)
        yield
    finally:
        for one, handler in before.items():
            with suppress(ValueError):
                signal.signal(one, handler)


@contextmanager
def _quiet_agent() -> Generator[None]:
    """Silence the agent's log, which repeats every failure with a traceback of the agent."""
    loggers, silent = [logging.getLogger(name) for name in LOGGERS], logging.NullHandler()
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(silent)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagates in zip(loggers, before, strict=True):
            logger.removeHandler(silent)
            logger.propagate = propagates


@contextmanager
def _environment(hardware: Hardware) -> Generator[None]:
    """Set threads and network of the ranks, unless the user has set them."""
    before = dict(os.environ)
    share = max((os.cpu_count() or 1) // ranks.local(hardware), 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(hardware.threads or share))
    if hardware.nodes == 1 and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
