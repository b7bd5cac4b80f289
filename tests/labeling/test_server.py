import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf.labeling.answers import Answers
from rlhf.labeling.pairs import Pair
from tests.browser import chromium, wait_for

pytest.importorskip("uvicorn", reason="the page's server is an extra: pip install 'rlhf[label]'")

from starlette.testclient import TestClient

from rlhf.labeling.server import Page, serve

HOSTILE = "<script>document.title = 0</script></style></script><b>bold</b> \u202egnirts \U0001f600 " + "x" * 100_000
PAIRS = [Pair([{"role": "user", "content": f"What is {i}?"}], "first", "second", ("s", "s")) for i in range(3)]


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    return Answers(tmp_path / "answers.jsonl", PAIRS, 1, seed=0)


@pytest.fixture
def client(answers: Answers) -> Iterator[TestClient]:
    ended: list[bool] = []
    with TestClient(Page(answers, "right", lambda: ended.append(True)).app(), base_url="http://127.0.0.1") as found:
        found.headers |= {"x-token": "right", "x-annotator": "ann%20b"}
        found.ended = ended
        yield found


@pytest.mark.parametrize("token", ["", "wrong", "right "])
def test_nothing_is_served_without_the_token(client: TestClient, token: str) -> None:
    assert client.get(f"/?token={token}").status_code == 403
    headers = {"x-token": token.strip("right").strip() or "no"}
    for method, path in (("GET", "/state"), ("POST", "/answer"), ("POST", "/undo"), ("POST", "/finish")):
        assert client.request(method, path, headers=headers).status_code == 403


def test_another_host_name_is_not_served(client: TestClient) -> None:
    assert client.get("/state", headers={"host": "evil.example"}).status_code == 400


def test_the_page_cannot_load_anything_from_elsewhere(client: TestClient) -> None:
    reply = client.get("/?token=right")
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "frame-ancestors 'none'" in policy
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", policy)[1]
    assert f'<script nonce="{nonce}">' in reply.text
    assert not re.search(r"(src|href)=", reply.text)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b'{"pair": 1, "verdict": "left"}', b'{"pair": "x", "verdict": "no"}', b"[" * 4000,
        b'{"a":' * 800, b"\xff",
    ],
)  # fmt: skip
def test_an_invalid_answer_is_rejected(client: TestClient, answers: Answers, body: bytes) -> None:
    assert client.post("/answer", content=body).status_code == 400
    assert answers.progress("ann b") == (0, 3)


def test_a_large_body_is_rejected(client: TestClient, answers: Answers) -> None:
    assert client.post("/answer", content=b" " * 10_000).status_code == 413
    assert answers.progress("ann b") == (0, 3)


def test_no_body_is_read_without_the_token(answers: Answers) -> None:
    """Calls the application directly, because the test client would read the body."""
    app, sent = Page(answers, "right", lambda: None).app(), []

    async def receive() -> dict:
        raise AssertionError("the body was read")

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/answer", "query_string": b"", "http_version": "1.1",
        "headers": [(b"host", b"127.0.0.1"), (b"x-token", b"wrong")],
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 403


def test_the_chosen_side_is_the_response_shown_there(client: TestClient, answers: Answers) -> None:
    state = client.get("/state").json()
    while state["pair"]:
        side = "left" if state["pair"]["left"] == "second" else "right"
        state = client.post("/answer", json={"pair": state["pair"]["id"], "verdict": side}).json()
    assert {verdict for given in answers.by_pair().values() for verdict in given.values()} == {"second"}


def test_the_session_ends_only_if_no_pair_is_open(client: TestClient) -> None:
    assert not client.post("/finish").json()["finished"]
    assert not client.ended
    state = client.get("/state").json()
    while state["pair"]:
        state = client.post("/answer", json={"pair": state["pair"]["id"], "verdict": "skip"}).json()
    assert not client.ended  # the last answer can still be taken back
    assert client.post("/finish").json()["finished"]
    assert client.ended == [True]


def test_in_a_real_browser_by_keyboard(tmp_path: Path) -> None:
    """Hostile text is shown as text; keys answer, undo and finish; a second page cannot answer for the first."""
    by = pytest.importorskip("selenium.webdriver.common.by").By
    hostile = Pair("Which?", HOSTILE, "plain", ("s", "s"))
    answers = Answers(tmp_path / "answers.jsonl", [hostile, *PAIRS], 1, seed=0)
    addresses: list[str] = []
    server = threading.Thread(target=serve, args=(answers, 0, addresses.append), daemon=True)
    server.start()
    wait_for(lambda: addresses)
    with chromium(tmp_path / "profile") as browser:

        def shown(name: str) -> str:
            return browser.find_element(by.ID, name).text

        def press(key: str, count: str) -> None:
            browser.find_element(by.TAG_NAME, "body").send_keys(key)
            wait_for(lambda: shown("count") == count)

        browser.get(addresses[0])
        wait_for(lambda: shown("count") == "0 of 4")
        assert "<script>" in shown("left") + shown("right")
        assert browser.title == "Which response is better?"
        assert not browser.find_elements(by.CSS_SELECTOR, "#left *, #right *")
        press("1" if shown("left") == "plain" else "2", "1 of 4")
        press("u", "0 of 4")
        press("1" if shown("left") == "plain" else "2", "1 of 4")
        browser.switch_to.new_window("tab")
        browser.get(addresses[0])
        wait_for(lambda: shown("count") == "1 of 4")
        press("3", "2 of 4")
        browser.switch_to.window(browser.window_handles[0])
        press("1", "2 of 4")
        assert "answered already" in shown("note")
        press("s", "3 of 4")
        press("t", "4 of 4")
        assert server.is_alive()
        browser.find_element(by.TAG_NAME, "body").send_keys("\ue007")
        wait_for(lambda: "Finished" in shown("note"))
        severe = [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
        assert not [entry for entry in severe if "409" not in entry["message"]]
    server.join(20)
    assert not server.is_alive()
    verdicts = [next(iter(given.values())) for given in answers.by_pair().values()]
    assert verdicts == ["second", "tie", "skip", "tie"]
