"""A scorer behind HTTP, with a server that fails in all ways."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from rlhf.errors import ConfigError, TrainingError
from rlhf.rewards import RemoteReward
from rlhf.rewards.bounded import LARGEST
from rlhf.rewards.remote import retry_after

Answer = Callable[[BaseHTTPRequestHandler, dict], None]


def status(code: int, body: str = "", **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler, request: dict) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body.encode())))
        handler.end_headers()
        handler.wfile.write(body.encode())

    return answer


def lengths(handler: BaseHTTPRequestHandler, request: dict) -> None:
    status(200, json.dumps({"scores": [len(text) for text in request["completions"]]}))(handler, request)


def late(handler: BaseHTTPRequestHandler, request: dict) -> None:
    time.sleep(0.4)  # the client has disconnected by then


def trickle(handler: BaseHTTPRequestHandler, request: dict) -> None:
    """Send single bytes: no pause exceeds the timeout, but their sum does."""
    with contextlib.suppress(OSError):  # the client has disconnected
        for char in b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + b" " * 900:
            handler.wfile.write(bytes([char]))
            time.sleep(0.02)


def huge(handler: BaseHTTPRequestHandler, request: dict) -> None:
    with contextlib.suppress(OSError):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(LARGEST // 2**20 + 2):
            handler.wfile.write(b" " * 2**20)
    handler.close_connection = True


def closed(handler: BaseHTTPRequestHandler, request: dict) -> None:
    handler.close_connection = True


class Server(ThreadingHTTPServer):
    """Sends the ``answers`` one after the other, then the lengths of the completions."""

    daemon_threads = True

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/score"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(request)
        self.server.tokens.append(self.headers.get("Authorization"))
        (self.server.answers.pop(0) if self.server.answers else lengths)(self, request)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def remote(server: Server, **options: Any) -> RemoteReward:
    return RemoteReward(server.url, **{"attempts": 3, "backoff": 0.001, "longest_wait": 0.01, "timeout": 0.3} | options)


def test_batches_are_split_and_come_back_in_order(server: Server) -> None:
    prompts = ["p", [{"role": "user", "content": "q"}], "r", "s", "t"]
    texts = ["a", "bb", "ccc", "dddd", "é" * 5]
    assert remote(server, batch_size=2)(prompts, texts) == [1, 2, 3, 4, 5]
    assert [len(request["completions"]) for request in server.asked] == [2, 2, 1]
    assert [prompt for request in server.asked for prompt in request["prompts"]] == prompts
    assert server.asked[2] == {"prompts": ["t"], "completions": ["é" * 5]}


FAILURES = {
    "late": late,
    "trickle": trickle,
    "huge": huge,
    "compressed": status(200, "x", Content_Encoding="gzip"),
    "nested": status(200, "[" * 100_000),
    "a mapping": status(200, '{"scores": {"0": 1, "1": 2}}'),
    "digits": status(200, '{"scores": "12"}'),
    "closed": closed,
    "500": status(500, "oops"),
    "503": status(503),
    "429": status(429, "", Retry_After="1"),
    "garbage": status(200, "<html>"),
    "no scores": status(200, '{"results": [1, 2]}'),
    "a list": status(200, "[1, 2]"),
    "too few": status(200, '{"scores": [1]}'),
    "too many": status(200, '{"scores": [1, 2, 3]}'),
    "nan": status(200, '{"scores": [1, NaN]}'),
    "null": status(200, '{"scores": [1, null]}'),
    "text": status(200, '{"scores": ["good", 1]}'),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_failed_batch_is_retried(server: Server, failure: Answer) -> None:
    server.answers = [failure, failure]
    assert remote(server)(["p", "q"], ["a", "bb"]) == [1, 2]
    assert server.asked == [{"prompts": ["p", "q"], "completions": ["a", "bb"]}] * 3


@pytest.mark.parametrize("failure", ["late", "trickle", "huge", "500", "nan", "garbage"])
def test_the_last_failed_try_is_a_one_line_error(server: Server, failure: str) -> None:
    server.answers = [lengths] + [FAILURES[failure]] * 3
    with pytest.raises(TrainingError, match=r"batch of 1 completions in 3 tries.*resume=true") as raised:
        remote(server, batch_size=2)(["p", "q", "r"], ["a", "bb", "ccc"])
    assert len(server.asked) == 4
    assert "\n" not in str(raised.value)


def test_control_codes_of_a_response_are_not_printed(server: Server) -> None:
    server.answers = [status(200, "\x1b[31mred\x07")] * 3
    with pytest.raises(TrainingError, match=r"it returned .*red") as raised:
        remote(server)(["p"], ["a"])
    assert str(raised.value).isprintable()


def test_an_unreachable_server_is_reported(server: Server) -> None:
    gone = RemoteReward("http://127.0.0.1:1/score", attempts=2, backoff=0.001, longest_wait=0.01)
    with pytest.raises(TrainingError, match=r"127\.0\.0\.1:1/score.*cannot be reached"):
        gone(["p"], ["a"])


@pytest.mark.parametrize("code", [400, 401, 404, 302])
def test_permanent_failures_are_not_retried(server: Server, code: int) -> None:
    server.answers = [status(code)]
    with pytest.raises(TrainingError, match=f"status {code}"):
        remote(server)(["p"], ["a"])
    assert len(server.asked) == 1


def test_waits_grow_at_random_and_respect_retry_after(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a first wait of at most 1 s they are below 1, 2, 4, 8 and at most 5; a Retry-After of 3 is respected."""
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=waited.append))  # not the time of server threads
    server.answers = [status(500)] * 4
    remote(server, attempts=5, backoff=1.0, longest_wait=5.0)(["p"], ["a"])
    assert all(0 <= wait <= bound for wait, bound in zip(waited, (1, 2, 4, 5), strict=True))
    assert len(set(waited)) == 4
    waited.clear()
    server.answers = [status(429, "", Retry_After="3"), status(503, "", Retry_After="99")]
    remote(server, backoff=0.001, longest_wait=5.0)(["p"], ["a"])
    assert waited == [3, 5]


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after(httpx2.Headers({"Retry-After": "7"})) == 7
    in_a_minute = formatdate(time.time() + 60, usegmt=True)
    assert retry_after(httpx2.Headers({"Retry-After": in_a_minute})) == pytest.approx(60, abs=2)
    past = formatdate(time.time() - 60, usegmt=True)
    for header in ({}, {"Retry-After": "soon"}, {"Retry-After": past}, {"Retry-After": "-3"}):
        assert retry_after(httpx2.Headers(header)) == 0


def test_a_token_is_sent_and_never_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="THE_TOKEN, which is not set"):
        remote(server, token_variable="THE_TOKEN")
    monkeypatch.setenv("THE_TOKEN", "s3cr3t")
    server.answers = [status(401)]
    asked = remote(server, token_variable="THE_TOKEN")
    with pytest.raises(TrainingError) as raised:
        asked(["p"], ["a"])
    assert server.tokens == ["Bearer s3cr3t"]
    assert "s3cr3t" not in f"{raised.value}{vars(asked)}"
    assert remote(server)(["p"], ["a"]) == [1]
    assert server.tokens[-1] is None


def test_a_password_in_the_url_is_not_shown() -> None:
    place = RemoteReward("http://me:s3cr3t@127.0.0.1:1/score?key=s3cr3t").place
    assert place == "http://127.0.0.1:1/score"
