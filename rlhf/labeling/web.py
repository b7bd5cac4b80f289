"""Pages on this machine: served only locally, to requests of the page itself, which need the token of its address."""

import json
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

HOST = "127.0.0.1"


class LocalPage:
    """A page, the file ``html``, and its API. Each request of the API has the token in a header."""

    html: Path

    def __init__(self, token: str):
        self.token = token

    def application(self, routes: Sequence[Route]) -> Starlette:
        """Return the web application of the page and ``routes``."""
        # Against DNS rebinding: another site could reach the page through a host name that resolves to this machine.
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
        return Starlette(routes=[Route("/", self.page), *routes], middleware=[hosts])

    def _known(self, token: str | None) -> bool:
        return secrets.compare_digest((token or "").encode(), self.token.encode())

    def allowed(self, request: Request) -> bool:
        """Return whether a request of the API has the token and comes from the page, not from another site."""
        origin = request.headers.get("origin")
        own = origin is None or urlsplit(origin).netloc == request.headers.get("host")
        return own and self._known(request.headers.get("x-token"))

    def refused(self) -> JSONResponse:
        """Return the reply to a request that is not allowed."""
        return JSONResponse({"error": "no valid token"}, 403)

    async def page(self, request: Request) -> Response:
        """Return the page, or 403 without the token."""
        if not self._known(request.query_params.get("token")):
            return HTMLResponse("The address has no valid token. Open the one that the terminal shows.", 403)
        nonce = secrets.token_urlsafe(12)
        html = self.html.read_text(encoding="utf-8").replace("{{nonce}}", nonce).replace("{{data}}", "null")
        sources = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'"
        policy = f"default-src 'none'; {sources}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        return HTMLResponse(html, headers=headers)


async def read_body(request: Request, largest: int) -> dict[str, Any] | None:
    """Return the JSON object of a request, empty if it is not one; None for a body of more than ``largest`` bytes."""
    whole = bytearray()
    async for part in request.stream():
        whole += part
        if len(whole) > largest:
            return None
    try:
        body = json.loads(whole)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def serve_page(make: Callable[[str, Callable[[], None]], Starlette], port: int, tell: Callable[[str], None]) -> None:
    """Serve an application until it ends itself, or Ctrl-C; ``tell`` is called with its address.

    Args:
        make: (token, function that ends the server) -> application.

    Raises:
        OSError: the port is in use.
    """
    token = secrets.token_urlsafe(16)
    server: uvicorn.Server

    def done() -> None:
        server.should_exit = True  # the current response is still sent

    app = make(token, done)
    config = uvicorn.Config(app, host=HOST, port=port, log_level="critical", access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen()  # a browser that connects before the server runs waits instead of being refused
        tell(f"http://{HOST}:{listening.getsockname()[1]}/?token={token}")
        server.run(sockets=[listening])
