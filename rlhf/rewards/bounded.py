"""HTTP answers from servers that may misbehave: a limit on the whole time and on the size of an answer."""

import queue
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

LARGEST = 16 * 2**20
"""Bytes of an answer. Scores of a hundred thousand completions are a few million."""


def bounded(http: ModuleType, client: type, seconds: float) -> type:
    """Return a subclass of ``client``, a synchronous client of httpx or httpx2, that limits every answer.

    httpx's own timeouts lie between two pieces of an answer: a server that sends a byte now and then never reaches
    them. An answer that takes longer than ``seconds`` raises ``http.ReadTimeout``; one that is larger than `LARGEST`,
    or compressed, which could hide its size, raises ``http.ReadError``.
    """

    class Bounded(client):
        def send(self, request: Any, **named: Any) -> Any:
            request.headers["Accept-Encoding"] = "identity"
            end = time.monotonic() + seconds

            def work() -> Any:
                response = client.send(self, request, **named | {"stream": True})
                try:
                    return http.Response(
                        response.status_code, headers=response.headers, content=whole(response, end), request=request
                    )
                finally:
                    response.close()

            try:
                return within(seconds, work)
            except TimeoutError:
                raise http.ReadTimeout(f"no whole answer within {seconds:g} seconds", request=request) from None
            except ValueError as error:
                raise http.ReadError(str(error), request=request) from None

    return Bounded


def whole(response: Any, end: float) -> bytes:
    """Return the body of a streamed ``response``.

    Raises:
        ValueError: it is compressed or too large.
        TimeoutError: it is not complete at ``end``, a time of ``time.monotonic``.
    """
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise ValueError("the answer is compressed, which was not asked for")
    found = bytearray()
    for part in response.iter_raw():
        found += part
        if len(found) > LARGEST:
            raise ValueError(f"the answer is larger than {LARGEST // 2**20} MiB")
        if time.monotonic() > end:
            raise TimeoutError
    return bytes(found)


def within(seconds: float, work: Callable[[], T]) -> T:
    """Return ``work()``, which runs in a thread that is left behind where it takes longer than ``seconds``.

    Raises:
        TimeoutError: it takes longer.
    """
    box: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def target() -> None:
        try:
            box.put((work(), None))
        except BaseException as error:
            box.put((None, error))

    threading.Thread(target=target, daemon=True).start()
    try:
        found, error = box.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return found
