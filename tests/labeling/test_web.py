"""The requests that every page on this machine refuses. Each page also has its own tests."""

import asyncio
import threading
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the page's server is an extra: pip install 'rlhf[label]'")

import httpx
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from rlhf.labeling.web import HOST, LocalPage, read_body, serve_page


class Page(LocalPage):
    html = Path("unread")

    def __init__(self, token: str, done=lambda: None):
        super().__init__(token)
        self.done = done

    def app(self):
        return self.application([Route("/call", self.call)])

    async def call(self, request: Request):
        if not self.allowed(request):
            return self.refused()
        self.done()
        return PlainTextResponse("done")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-token": "right"}, 200),
        ({"x-token": "right", "origin": "http://127.0.0.1"}, 200),
        ({"x-token": "right", "origin": "https://evil.example"}, 403),
        ({"x-token": "right", "origin": "http://127.0.0.1:8888"}, 403),  # another server of this machine
        ({"x-token": "right", "origin": "null"}, 403),
        ({"x-token": "wrong"}, 403),
        ({}, 403),
        ({"x-token": "right", "host": "evil.example"}, 400),
    ],
)
def test_only_the_page_itself_is_answered(headers: dict[str, str], status: int) -> None:
    with TestClient(Page("right").app(), base_url=f"http://{HOST}") as client:
        assert client.get("/call", headers=headers).status_code == status


def test_a_body_is_read_up_to_its_limit() -> None:
    async def body(*parts: bytes) -> object:
        left = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        left.append({"type": "http.request", "body": b"", "more_body": False})

        async def receive() -> dict:
            return left.pop(0)

        return await read_body(Request({"type": "http", "method": "POST", "headers": []}, receive), 8)

    assert asyncio.run(body(b'{"a"', b":1}")) == {"a": 1}
    assert asyncio.run(body(b"[]")) == {}
    assert asyncio.run(body(b'{"a":', b"12345}")) is None


def test_a_server_ends_when_its_application_is_done() -> None:
    addresses: list[str] = []
    ready = threading.Event()

    def tell(address: str) -> None:
        addresses.append(address)
        ready.set()

    server = threading.Thread(target=serve_page, args=(lambda token, done: Page(token, done).app(), 0, tell))
    server.start()
    ready.wait(20)
    address, _, token = addresses[0].partition("/?token=")
    assert address.startswith(f"http://{HOST}:")
    assert httpx.get(f"{address}/call", headers={"x-token": token}).text == "done"
    server.join(20)
    assert not server.is_alive()
