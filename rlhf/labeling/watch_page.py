"""The live page of runs on this machine: rlhf.evaluation.reporting.live has its content."""

from collections.abc import Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rlhf.evaluation.reporting import live
from rlhf.labeling.web import LocalPage, serve_page


class WatchPage(LocalPage):
    """The page of the runs below ``folder``, which asks for their state after ``every`` seconds."""

    html = live.TEMPLATE

    def __init__(self, folder: Path, every: float, token: str):
        super().__init__(token)
        self.folder, self.every = folder, every

    def app(self) -> Starlette:
        """Return the web application."""
        return self.application([Route("/state", self.state), Route("/ledger", self.ledger)])

    def state(self, request: Request) -> Response:
        """Return the state of all runs; read in a thread, beside other requests."""
        if not self.allowed(request):
            return self.refused()
        return JSONResponse(live.snapshot(self.folder) | {"every": self.every})

    def ledger(self, request: Request) -> Response:
        """Return the token ledger of the run that the query names."""
        if not self.allowed(request):
            return self.refused()
        return JSONResponse(live.ledger(self.folder, request.query_params.get("run", "")))


def serve(folder: Path, every: float, port: int, tell: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C; ``tell`` is called with its address.

    Raises:
        OSError: the port is in use.
    """
    serve_page(lambda token, done: WatchPage(folder, every, token).app(), port, tell)
