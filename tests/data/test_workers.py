"""Batches in several processes: in order, bounded, with the errors of their place."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from rlhf.data import workers
from rlhf.errors import DataError


def scaled(factor: int, number: int) -> int:
    if number == 7:
        raise DataError("seven")
    return factor * number


def killed(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def identity(number: int) -> int:
    return number


@pytest.mark.parametrize("processes", [1, 2])
def test_results_are_in_order_and_errors_at_their_place(processes: int) -> None:
    found = workers.mapped(scaled, (3,), range(9), processes)
    assert [next(found) for _ in range(7)] == [0, 3, 6, 9, 12, 15, 18]
    with pytest.raises(DataError, match="^seven$"):
        next(found)


def test_tasks_are_drawn_as_results_are_read() -> None:
    drawn = []

    def tasks() -> Iterator[int]:
        for number in range(1000):
            drawn.append(number)
            yield number

    found = workers.mapped(identity, (), tasks(), 2)
    assert [next(found) for _ in range(5)] == [0, 1, 2, 3, 4]
    found.close()
    assert len(drawn) == 4 + workers.AHEAD * 2


def test_a_worker_that_is_killed_names_the_setting() -> None:
    with pytest.raises(DataError, match=r"one of 2 processes .* ended unexpectedly.*: set data\.processes=1"):
        list(workers.mapped(killed, (), range(4), 2))


def test_workers_end_with_a_parent_that_is_killed() -> None:
    code = (
        "from tests.data.test_workers import identity; from rlhf.data import workers\n"
        "if __name__ == '__main__':\n"
        "    found = workers.mapped(identity, (), iter(int, 1), 2); next(found); print('begun', flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"begun\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) >= 2
        parent.kill()
    _, left = psutil.wait_procs(children, timeout=20)
    assert not left


def test_the_default_number_is_that_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert workers.count(None) == workers.MOST
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
    assert (workers.count(None), workers.count(5)) == (2, 5)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert workers.count(None) == 1
