"""HTTP responses from untrusted servers: limits on the total time and on the size of a response."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

LARGEST = 16 * 2**20
"""Bytes of a response. Scores of a hundred thousand completions are a few million bytes."""


def bounded(http: ModuleType, client: Any, seconds: float) -> type:
    """Return a subclass of ``client``, a synchronous client class of httpx or httpx2, that limits every response.

    httpx's timeouts apply between two chunks: a server that sends one byte at a time never exceeds them. A response
    that takes longer than ``seconds`` raises ``http.ReadTimeout``; one that is larger than `LARGEST`, or compressed,
    which could hide its size, raises ``http.ReadError``.
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
                raise http.ReadTimeout(f"no complete response within {seconds:g} seconds", request=request) from None
            except ValueError as error:
                raise http.ReadError(str(error), request=request) from None

    return Bounded


def whole(response: Any, end: float) -> bytes:
    """Return the body of a streamed ``response``.

    Raises:
        ValueError: the response is compressed or too large.
        TimeoutError: it is not complete at ``end``, a time of ``time.monotonic``.
    """
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise ValueError("the response is compressed, which was not requested")
    found = bytearray()
    for part in response.iter_raw():
        found += part
        if len(found) > LARGEST:
            raise ValueError(f"the response is larger than {LARGEST // 2**20} MiB")
        if time.monotonic() > end:
            raise TimeoutError
    return bytes(found)


def within(seconds: float, work: Callable[[], T]) -> T:
    """Return ``work()``, run in a thread that is abandoned if it takes longer than ``seconds``.

    Raises:
        TimeoutError: it takes longer.
    """
    future: Future[T] = Future()

    def target() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=target, daemon=True).start()
    return future.result(timeout=seconds)
