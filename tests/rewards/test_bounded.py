import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from rlhf.rewards import bounded
from rlhf.rewards.bounded import whole, within


def response(*parts: bytes, encoding: str | None = None, pause: float = 0.0) -> SimpleNamespace:
    def stream() -> Iterator[bytes]:
        for part in parts:
            time.sleep(pause)
            yield part

    return SimpleNamespace(headers={} if encoding is None else {"Content-Encoding": encoding}, iter_raw=stream)


def test_a_body_is_read_whole() -> None:
    assert whole(response(b"ab", b"", b"c", encoding="identity"), time.monotonic() + 60) == b"abc"


@pytest.mark.parametrize(
    ("given", "message"),
    [(response(b"x", encoding="gzip"), "compressed"), (response(b"abc", b"de"), "larger than 0 MiB")],
)
def test_compressed_and_large_bodies_are_refused(
    monkeypatch: pytest.MonkeyPatch, given: SimpleNamespace, message: str
) -> None:
    monkeypatch.setattr(bounded, "LARGEST", 4)
    with pytest.raises(ValueError, match=message):
        whole(given, time.monotonic() + 60)


def test_the_limit_is_the_size_that_is_still_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "LARGEST", 4)
    assert whole(response(b"ab", b"cd"), time.monotonic() + 60) == b"abcd"


def test_a_body_that_comes_byte_by_byte_ends_at_the_time_limit() -> None:
    with pytest.raises(TimeoutError):
        whole(response(*[b"x"] * 1000, pause=0.01), time.monotonic() + 0.05)


def test_work_is_returned_raised_or_abandoned() -> None:
    assert within(60, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(60, lambda: 1 / 0)
    released = threading.Event()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        within(0.05, lambda: released.wait(60))
    assert time.monotonic() - started < 30
    released.set()
