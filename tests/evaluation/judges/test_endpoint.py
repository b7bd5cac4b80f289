"""A judge behind an endpoint, tested with a local server that can be made to fail."""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rlhf.config import Judge
from rlhf.errors import ConfigError, TrainingError
from rlhf.evaluation.judges.endpoint import EndpointJudge
from rlhf.evaluation.judges.judge import template
from rlhf.rewards.bounded import LARGEST
from tests.conftest import composed

pytest.importorskip("openai", reason="the endpoint's client is an extra: pip install 'rlhf[judge]'")


class Server(ThreadingHTTPServer):
    """Prefers the response with more x's, and scores one by them; ``faults`` are sent first, one per request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: list[tuple[int, bytes]] = []
        self.always: str | None = None
        self.refuses = False  # to score every fifth response
        self.requests: list[dict] = []
        self.keys: set[str] = set()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.keys.add(self.headers["authorization"])
            status, reply = self.server.faults.pop(0) if self.server.faults else (200, self._answer(body))
        if status == 0:  # hang until the client gives up
            threading.Event().wait(1.0)
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("retry-after-ms", "1")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def _answer(self, body: dict) -> bytes:
        text = body["messages"][0]["content"]
        if "<response A " not in text:
            response = text.split("<response ")[1].split("</response")[0].split("\n", 1)[1]
            if self.server.refuses and sum(map(ord, response)) % 5 == 0:
                return reply(None, refusal="I cannot judge this")
            count = response.count("x")
            return reply(self.server.always or f"It has {count} of them.\nScore: {min(1 + count, 5)}/5")
        first, second = (text.split(f"<response {name} ")[1].split("</response")[0].count("x") for name in "AB")
        said = self.server.always or ("A" if first > second else "B" if second > first else "TIE")
        return reply(said)

    def log_message(self, *_: object) -> None:
        pass


def reply(text: object, prompt_tokens: object = 100, response_tokens: object = 1, **more: str) -> bytes:
    message = {"role": "assistant", "content": text, **more}
    whole = {
        "id": "1", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": response_tokens, "total_tokens": 101},
    }  # fmt: skip
    return json.dumps(whole).encode()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield found
        found.shutdown()


@pytest.fixture
def judge(server: Server, tmp_path: Path) -> Iterator[Callable[..., EndpointJudge]]:
    made: list[EndpointJudge] = []

    def of(*overrides: str) -> EndpointJudge:
        given = ["judge=endpoint", "judge.model=m", f"judge.url={server.url}", f"judge.cache={tmp_path}/cache.sqlite"]
        settings: Judge = composed("stage=label", *given, "judge.workers=2", *overrides).judge
        made.append(EndpointJudge(settings, template(settings.template)))
        return made[-1]

    yield of
    for one in made:
        one.close()


PAIRS = (["p", "q", "r"], ["xx", "x", "x"], ["x", "xx", "xy"])


def test_both_orders_are_asked_and_ties_are_kept(judge, server: Server) -> None:
    one = judge("judge.price_prompt=2", "judge.price_response=10")
    assert one(*PAIRS) == [1.0, 0.0, 0.5]
    found = one.report()
    assert found["judge/asked"] == 6
    assert found["judge/dollars"] == pytest.approx(6 * (100 * 2 + 1 * 10) / 1e6)
    assert found["judge/consistent"] == 1.0


def test_a_judge_with_position_bias_only_ties(judge, server: Server) -> None:
    server.always = "A"
    one = judge()
    assert one(*PAIRS) == [0.5, 0.5, 0.5]
    assert one.report()["judge/consistent"] == 0.0


def test_nothing_is_paid_for_twice(judge, server: Server) -> None:
    first = judge()(*PAIRS)
    again = judge()
    assert again(*PAIRS) == first
    assert len(server.requests) == 6
    assert again.report()["judge/cached"] == 6
    assert again.report()["judge/dollars"] == 0


def test_another_model_is_another_question(judge, server: Server) -> None:
    judge()(*PAIRS)
    judge("judge.model=other")(*PAIRS)
    assert len(server.requests) == 12


@pytest.mark.parametrize(
    "fault",
    [
        (429, b"{}"), (500, b"oops"), (503, b""), (200, reply("no idea")), (200, reply(None)),
        (200, b'{"choices": []}'), (200, b'"odd"'), (0, b""), (200, b"oops"), (200, b"[" * 100_000),
        (200, b'{"choices": "A"}'), (200, b'{"choices": {"a": 1}}'), (200, b'{"choices": [[]]}'),
        (200, reply([{"type": "text", "text": "A"}])), (200, b" " * (LARGEST + 2)), (200, reply("no", "many", -3)),
    ],
    ids=[
        "limited", "error", "unavailable", "no verdict", "nothing", "no choice", "garbage", "no answer", "not JSON",
        "nested", "choices a text", "choices a mapping", "a choice a list", "content a list", "huge", "token counts",
    ],
)  # fmt: skip
def test_transient_failures_are_asked_again(judge, server: Server, fault: tuple[int, bytes]) -> None:
    server.faults = [fault, fault]
    one = judge("judge.timeout=0.5", "judge.workers=1")
    assert one(*PAIRS) == [1.0, 0.0, 0.5]
    assert len(server.requests) == 8


def test_malformed_replies_are_counted(judge, server: Server) -> None:
    server.faults = [(200, b'{"choices": "A"}'), (200, reply(["A"])), (200, reply("A", "many"))]
    one = judge("judge.workers=1")
    assert one(*PAIRS) == [1.0, 0.0, 0.5]
    assert one.report()["judge/malformed"] == 3
    server.always = "as you like"
    with pytest.raises(TrainingError, match=r"no verdict on 1 of 1 pairs \(0 of 2 replies were malformed, 0 refused\)"):
        judge("judge.attempts=1", "judge.model=other")(["p"], ["xx"], ["x"])


def test_a_budget_ends_the_questions_and_paid_replies_are_kept(judge, server: Server) -> None:
    prices = ("judge.price_prompt=10", "judge.price_response=0", "judge.workers=1")  # 0.001 dollars per question
    with pytest.raises(TrainingError, match=r"judge\.budget=0\.003 dollars are spent after 3 questions: raise it"):
        judge(*prices, "judge.budget=0.003")(*PAIRS)
    assert len(server.requests) == 3
    assert judge(*prices, "judge.budget=0.004")(*PAIRS) == [1.0, 0.0, 0.5]
    assert len(server.requests) == 6
    with pytest.raises(ConfigError, match=r"judge\.budget must be set together with judge\.price_prompt"):
        judge("judge.budget=1")


def test_a_corrupted_cache_is_reported_and_an_entry_is_asked_again(judge, server: Server, tmp_path: Path) -> None:
    judge()(*PAIRS)
    with sqlite3.connect(tmp_path / "cache.sqlite") as connection:
        for row, damage in enumerate(["nothing", "[1, 2, 3]", '["A"]'], 1):
            connection.execute("UPDATE replies SET reply = ? WHERE rowid = ?", (damage, row))
    again = judge()
    assert again(*PAIRS) == [1.0, 0.0, 0.5]
    found = again.report()
    assert (found["judge/damaged"], found["judge/asked"], found["judge/cached"]) == (3, 3, 3)
    again.close()
    (tmp_path / "cache.sqlite").write_bytes(b"no database " * 100)
    with pytest.raises(ConfigError, match=r"judge\.cache=.*cannot be used \(.*\): remove the file"):
        judge()


def test_control_codes_of_an_endpoint_are_not_shown(judge, server: Server) -> None:
    server.faults = [(401, b"\x1b[31mred\x07")] * 9
    with pytest.raises(TrainingError) as raised:
        judge()(*PAIRS)
    assert "red" in str(raised.value)
    assert str(raised.value).isprintable()


def test_an_endpoint_that_refuses_is_reported_and_replies_are_kept(judge, server: Server) -> None:
    judge()(["p"], ["xx"], ["x"])
    server.faults = [(401, b'{"error": {"message": "bad key"}}')] * 20
    with pytest.raises(TrainingError, match=r"judge\.url=http.*401.*bad key.*replies so far are kept"):
        judge()(*PAIRS)
    server.faults = []
    server.requests.clear()
    assert judge()(*PAIRS) == [1.0, 0.0, 0.5]
    assert len(server.requests) == 4


def test_a_model_without_verdicts_is_refused_as_judge(judge, server: Server) -> None:
    server.always = "as you like"
    with pytest.raises(TrainingError, match=r"no verdict on 3 of 3 pairs.*judge\.max_tokens=16"):
        judge("judge.attempts=2")(*PAIRS)


def test_a_pair_without_a_verdict_is_counted_and_not_scored(judge, server: Server) -> None:
    server.faults = [(200, reply("no idea"))] * 2
    one = judge("judge.attempts=2", "judge.workers=1")
    found = one(["p"] * 6, ["xx"] * 6, ["x", "y", "z", "v", "w", "u"])
    assert found == [None, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert one.report()["judge/unusable"] == 1


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(
    judge, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-planted-secret")
    judge("judge.key_variable=MY_KEY")(*PAIRS)
    assert server.keys == {"Bearer sk-planted-secret"}
    assert b"sk-planted-secret" not in (tmp_path / "cache.sqlite").read_bytes()


def test_without_a_key_the_public_endpoint_is_refused(judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"OPENAI_API_KEY is not set"):
        judge("judge.url=https://api.openai.com/v1")
