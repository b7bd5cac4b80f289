"""The web page on which people compare two responses. It is served only locally and needs the token of its address."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rlhf.data.render import question
from rlhf.labeling.answers import VERDICTS, Answers
from rlhf.labeling.web import LocalPage, read_body, serve_page

SIDES = ("left", "right", "tie", "skip")
LARGEST = 4096  # bytes of an answer, which holds the id of a pair and a verdict


class Page(LocalPage):
    """The page and its API. ``done`` is called when an annotator finishes and no pair is open."""

    html = Path(__file__).with_name("page.html")

    def __init__(self, answers: Answers, token: str, done: Callable[[], None]):
        super().__init__(token)
        self.answers, self.done = answers, done

    def app(self) -> Starlette:
        """Return the web application."""
        return self.application(
            [
                Route("/state", self.state),
                Route("/answer", self.answer, methods=["POST"]),
                Route("/undo", self.undo, methods=["POST"]),
                Route("/finish", self.finish, methods=["POST"]),
            ]
        )

    async def state(self, request: Request) -> Response:
        """Return the annotator's progress and next pair."""
        annotator = self._annotator(request)
        return self.refused() if annotator is None else JSONResponse(self._state(annotator))

    async def answer(self, request: Request) -> Response:
        """Write an answer and return the next state; 409 if the annotator has already answered the pair."""
        annotator = self._annotator(request)
        if annotator is None:  # checked before the body is read, which any local user can send
            return self.refused()
        body = await read_body(request, LARGEST)
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
            return self.refused()
        return JSONResponse({"taken": self.answers.undo(annotator)} | self._state(annotator))

    async def finish(self, request: Request) -> Response:
        """End the session if no pair is open. It is a separate call, so that the last answer can be taken back."""
        annotator = self._annotator(request)
        if annotator is None:
            return self.refused()
        if self.answers.complete:
            self.done()
        return JSONResponse(self._state(annotator) | {"finished": self.answers.complete})

    def _verdict(self, annotator: str, pair: str, side: str) -> str:
        if side not in ("left", "right"):
            return side
        first_is_left = not self.answers.swapped(annotator, pair)
        return VERDICTS[0] if (side == "left") == first_is_left else VERDICTS[1]

    def _annotator(self, request: Request) -> str | None:
        """Return the name in the request; None if the request is not allowed."""
        name = unquote(request.headers.get("x-annotator", "")).strip()[:80] or "anonymous"
        return name if self.allowed(request) else None

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


def serve(answers: Answers, port: int, tell: Callable[[str], None]) -> None:
    """Serve the page until an annotator finishes with no pair open, or Ctrl-C; ``tell`` is called with its address.

    Raises:
        OSError: the port is in use.
    """
    serve_page(lambda token, done: Page(answers, token, done).app(), port, tell)
