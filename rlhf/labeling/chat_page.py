"""The page of stage=chat: two answers to each message, and a preference pair for each click on the better one."""

import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from rlhf.config.ranges import OURS
from rlhf.data.render import Message, question
from rlhf.errors import ConfigError, RlhfError
from rlhf.labeling.chat import Answer, Chat, StoppedError, remarks
from rlhf.labeling.pairs import Pair, preference
from rlhf.labeling.web import LocalPage, read_body, serve_page

SIDES = ("left", "right")
LARGEST = 2**18  # bytes of a message with its settings

Events = queue.SimpleQueue[dict[str, Any] | None]


class Preferences:
    """The file of preference pairs: a row is appended per verdict, and the last one can be taken back."""

    def __init__(self, path: Path):
        self.path, self.written = path, 0
        self._last: tuple[int, int] | None = None  # where the last row begins, and where it ends

    def add(self, pair: Pair, side: int) -> None:
        """Append a pair whose ``side`` is the better one, 0 or 1."""
        row = json.dumps(preference(pair, 1.0 - side, "chat"), ensure_ascii=False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            start = file.seek(0, 2)
            if start and (file.seek(start - 1), file.read(1))[1] != b"\n":  # of a killed process, or another program
                start += file.write(b"\n")
            file.write(row.encode() + b"\n")
            self._last = start, file.tell()
        self.written += 1

    def undo(self) -> bool:
        """Remove the last row; return False without one, or if another process has changed the file since."""
        if self._last is None or self.path.stat().st_size != self._last[1]:
            return False
        with self.path.open("rb+") as file:
            file.truncate(self._last[0])
        self._last, self.written = None, self.written - 1
        return True


class ChatPage(LocalPage):
    """One conversation. Its next message continues from the preferred answer, or from the left one without a verdict.

    Models answer in a separate thread, one request at a time, so that the page can stop them.
    """

    html = Path(__file__).with_name("chat.html")

    def __init__(self, chat: Chat, names: Sequence[str], token: str):
        super().__init__(token)
        self.chat, self.names = chat, [names[0], names[-1]]
        self.system, self.temperature = chat.stage.system or "", chat.stage.temperature
        self.preferences = Preferences(Path(chat.stage.preferences))
        self.talk: list[Message] = []  # before the latest message
        self.answers: list[Answer] = []  # to the latest message, left and right
        self.message: Message | None = None
        self.preferred: int | None = None
        self._busy, self._stop = threading.Lock(), threading.Event()

    def app(self) -> Starlette:
        """Return the web application."""
        calls = {"say": self.say, "prefer": self.prefer, "undo": self.undo, "new": self.new, "stop": self.stop}
        posts = [Route(f"/{name}", call, methods=["POST"]) for name, call in calls.items()]
        return self.application([Route("/state", self.state), *posts])

    async def state(self, request: Request) -> Response:
        """Return everything that the page shows."""
        return JSONResponse(self._state()) if self.allowed(request) else self.refused()

    async def say(self, request: Request) -> Response:
        """Answer a message, or the latest one again without a ``text``; return the events as lines of JSON."""
        if not self.allowed(request):
            return self.refused()
        body = await read_body(request, LARGEST)
        if body is None:
            return JSONResponse({"error": f"a message has at most {LARGEST} bytes"}, 413)
        if not self._busy.acquire(blocking=False):
            return JSONResponse({"error": "an answer is being written: stop it first"}, 409)
        try:
            self._prepare(body)
        except RlhfError as error:
            self._busy.release()
            return JSONResponse({"error": str(error)}, 400)
        events: Events = queue.SimpleQueue()
        self._stop = threading.Event()
        threading.Thread(target=self._answer, args=(events, self._stop), daemon=True).start()
        return StreamingResponse(_lines(events, self._stop), media_type="application/x-ndjson")

    def _prepare(self, body: dict[str, Any]) -> None:
        """Read a request, and continue the conversation from the preferred answer."""
        text, names, system, temperature = (body.get(key) for key in ("text", "names", "system", "temperature"))
        if not (isinstance(names, list) and len(names) == 2 and all(isinstance(name, str) for name in names)):
            raise ConfigError("a message needs the names of two models")
        allowed = OURS["ChatStage"]["temperature"]
        number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
        if not (number and temperature in allowed and isinstance(system, str)):
            raise ConfigError(f"a message needs a temperature in {allowed} and a system message, which may be empty")
        if text is not None and not (isinstance(text, str) and text.strip()):
            raise ConfigError("the message is empty")
        if text is None and self.message is None:
            raise ConfigError("there is no message to answer again")
        for name in names:
            self.chat.find(name)
        if text is not None:
            if self.message is not None and self.answers:
                kept = self.answers[self.preferred or 0].text
                self.talk += [self.message, {"role": "assistant", "content": kept}]
            self.message = {"role": "user", "content": text}
        self.names, self.system, self.temperature = names, system.strip(), float(temperature)
        self.answers, self.preferred = [], None

    def _prompt(self) -> list[Message]:
        assert self.message is not None
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.talk, self.message]

    def _answer(self, events: Events, stop: threading.Event) -> None:
        """Write the events of both answers to ``events``, then None; ``stop`` ends the answers."""
        events.put({"talk": self.talk, "message": self.message})
        try:
            for side, name in enumerate(self.names):

                def show(piece: str, side: int = side) -> None:
                    if stop.is_set():
                        raise StoppedError
                    events.put({"side": side, "piece": piece})

                self.chat.policy(name)
                if stop.is_set():
                    break
                answer = self.chat.answer(name, self._prompt(), self.temperature, show)
                self.answers.append(answer)
                events.put({"side": side, "answer": _shown(answer)})
                if answer.stopped:
                    break
        except RlhfError as error:
            events.put({"error": str(error)})
        finally:
            self._busy.release()
            events.put({"state": self._state()})
            events.put(None)

    async def prefer(self, request: Request) -> Response:
        """Write the pair of the latest answers; ``side`` is the better one."""
        if not self.allowed(request):
            return self.refused()
        side = (await read_body(request, LARGEST) or {}).get("side")
        if side not in SIDES:
            return JSONResponse({"error": f"a verdict needs a side: one of {', '.join(SIDES)}"}, 400)
        texts = [answer.text for answer in self.answers if not answer.stopped]
        if len(texts) < 2 or self.preferred is not None or texts[0] == texts[1]:
            return JSONResponse({"error": "a verdict needs two different whole answers without one"}, 409)
        talks = any(self.chat.policy(name).talks for name in self.names)
        prompt = self._prompt() if talks else question(self._prompt())
        try:
            self.preferences.add(Pair(prompt, texts[0], texts[1], (self.names[0], self.names[1])), SIDES.index(side))
        except OSError as error:
            where = self.preferences.path
            return JSONResponse({"error": f"{where} cannot be written ({error.strerror}): set stage.preferences"}, 500)
        self.preferred = SIDES.index(side)
        return JSONResponse(self._state())

    async def undo(self, request: Request) -> Response:
        """Take the verdict on the latest answers back."""
        if not self.allowed(request):
            return self.refused()
        if self.preferred is None or not self.preferences.undo():
            return JSONResponse({"error": "no verdict is left to take back"}, 409)
        self.preferred = None
        return JSONResponse(self._state())

    async def new(self, request: Request) -> Response:
        """Forget the conversation."""
        if not self.allowed(request):
            return self.refused()
        if self._busy.locked():
            return JSONResponse({"error": "an answer is being written: stop it first"}, 409)
        self.talk, self.answers, self.message, self.preferred = [], [], None, None
        return JSONResponse(self._state())

    async def stop(self, request: Request) -> Response:
        """Stop the answer that is being written."""
        if not self.allowed(request):
            return self.refused()
        self._stop.set()
        return JSONResponse({})

    def _state(self) -> dict[str, Any]:
        return {
            "names": self.names,
            "available": self.chat.available(),
            "system": self.system,
            "temperature": self.temperature,
            "talk": self.talk,
            "message": self.message,
            "answers": [_shown(answer) for answer in self.answers],
            "preferred": self.preferred,
            "written": self.preferences.written,
            "file": str(self.preferences.path),
        }


def _lines(events: Events, stop: threading.Event) -> Iterator[str]:
    try:
        while (event := events.get()) is not None:
            yield json.dumps(event) + "\n"
    finally:
        stop.set()  # the page may have been closed


def _shown(answer: Answer) -> dict[str, Any]:
    return {"text": answer.text, "remarks": remarks(answer), "whole": not answer.stopped}


def serve(chat: Chat, names: Sequence[str], port: int, tell: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C; ``tell`` is called with its address.

    Raises:
        OSError: the port is in use.
    """
    serve_page(lambda token, done: ChatPage(chat, names, token).app(), port, tell)
