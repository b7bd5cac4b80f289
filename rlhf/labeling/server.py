"""The web page on which people compare two responses. It is served only locally and needs the token of its address."""

import json
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from rlhf.data.render import question
from rlhf.labeling.answers import VERDICTS, Answers

HOST = "127.0.0.1"
SIDES = ("left", "right", "tie", "skip")
LARGEST = 4096  # bytes of an answer, which holds the id of a pair and a verdict


class Page:
    """The page and its API. ``done`` is called when an annotator finishes and no pair is open."""

    def __init__(self, answers: Answers, token: str, done: Callable[[], None]):
        self.answers, self.token, self.done = answers, token, done

    def app(self) -> Starlette:
        """Return the web application."""
        routes = [
            Route("/", self.page),
            Route("/state", self.state),
            Route("/answer", self.answer, methods=["POST"]),
            Route("/undo", self.undo, methods=["POST"]),
            Route("/finish", self.finish, methods=["POST"]),
        ]
        # Against DNS rebinding: another site could reach the page through a host name that resolves to this machine.
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
        return Starlette(routes=routes, middleware=[hosts])

    def _known(self, token: str | None) -> bool:
        return secrets.compare_digest((token or "").encode(), self.token.encode())

    async def page(self, request: Request) -> Response:
        """Return the page, or 403 without the token."""
        if not self._known(request.query_params.get("token")):
            return HTMLResponse("The address has no valid token. Open the one that the terminal shows.", 403)
        nonce = secrets.token_urlsafe(12)
        html = Path(__file__).with_name("page.html").read_text(encoding="utf-8").replace("{{nonce}}", nonce)
        sources = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'"
        policy = f"default-src 'none'; {sources}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        return HTMLResponse(html, headers=headers)

    async def state(self, request: Request) -> Response:
        """Return the annotator's progress and next pair."""
        annotator = self._annotator(request)
        return self._refused() if annotator is None else JSONResponse(self._state(annotator))

    async def answer(self, request: Request) -> Response:
        """Write an answer and return the next state; 409 if the annotator has already answered the pair."""
        annotator = self._annotator(request)
        if annotator is None:  # checked before the body is read, which any local user can send
            return self._refused()
        body = await _body(request)
        if body is None:
            return JSONResponse({"error": f"an answer has at most {LARGEST} bytes"}, 413)
        pair, side = body.get("pair"), body.get("verdict")
        if not isinstance(pair, str) or side not in SIDES:
            return JSONResponse({"error": f"an answer needs a pair and a verdict: one of {', '.join(SIDES)}"}, 400)
        taken = self.answers.add(annotator, pair, self._verdict(annotator, pair, side))
        # 409 makes a page that shows an old pair load the next one; its answer does not count for that one.
        return JSONResponse(self._state(annotator) | {"taken": taken}, 200 if taken else 409)

    async def undo(self, request: Request) -> Response:
        """Take back the annotator's last answer and return the state."""
        annotator = self._annotator(request)
        if annotator is None:
            return self._refused()
        return JSONResponse({"taken": self.answers.undo(annotator)} | self._state(annotator))

    async def finish(self, request: Request) -> Response:
        """End the session if no pair is open. It is a separate call, so that the last answer can be taken back."""
        annotator = self._annotator(request)
        if annotator is None:
            return self._refused()
        if self.answers.complete:
            self.done()
        return JSONResponse(self._state(annotator) | {"finished": self.answers.complete})

    def _verdict(self, annotator: str, pair: str, side: str) -> str:
        if side not in ("left", "right"):
            return side
        first_is_left = not self.answers.swapped(annotator, pair)
        return VERDICTS[0] if (side == "left") == first_is_left else VERDICTS[1]

    def _annotator(self, request: Request) -> str | None:
        """Return the name in the request; None if its token is wrong."""
        name = unquote(request.headers.get("x-annotator", "")).strip()[:80] or "anonymous"
        return name if self._known(request.headers.get("x-token")) else None

    def _refused(self) -> JSONResponse:
        return JSONResponse({"error": "no valid token"}, 403)

    def _state(self, annotator: str) -> dict[str, Any]:
        pair = self.answers.next(annotator)
        answered, total = self.answers.progress(annotator)
        state: dict[str, Any] = {"answered": answered, "total": total, "complete": self.answers.complete}
        if pair is None:
            return state | {"pair": None}
        texts = (pair.second, pair.first) if self.answers.swapped(annotator, pair.id) else (pair.first, pair.second)
        turns = [] if isinstance(pair.prompt, str) else pair.prompt[:-1]
        shown = {"id": pair.id, "before": turns, "prompt": question(pair.prompt), "left": texts[0], "right": texts[1]}
        return state | {"pair": shown}


async def _body(request: Request) -> dict[str, Any] | None:
    """Return the JSON object of a request, empty if it is not one; None for a body larger than `LARGEST`."""
    whole = bytearray()
    async for part in request.stream():
        whole += part
        if len(whole) > LARGEST:
            return None
    try:
        body = json.loads(whole)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def serve(answers: Answers, port: int, tell: Callable[[str], None]) -> None:
    """Serve the page until an annotator finishes with no pair open, or Ctrl-C; ``tell`` is called with its address.

    Raises:
        OSError: the port is in use.
    """
    token = secrets.token_urlsafe(16)
    server: uvicorn.Server

    def done() -> None:
        server.should_exit = True  # the current response is still sent

    app = Page(answers, token, done).app()
    config = uvicorn.Config(app, host=HOST, port=port, log_level="critical", access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen()  # a browser that connects before the server runs waits instead of being refused
        tell(f"http://{HOST}:{listening.getsockname()[1]}/?token={token}")
        server.run(sockets=[listening])
