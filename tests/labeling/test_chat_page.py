import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the page's server is an extra: pip install 'rlhf[label]'")

from starlette.testclient import TestClient

from rlhf.config import ChatStage
from rlhf.data import load
from rlhf.errors import LineageError, ModelError
from rlhf.labeling.chat import Answer, StoppedError
from rlhf.labeling.chat_page import ChatPage, Preferences, serve
from rlhf.labeling.pairs import Pair
from tests.browser import chromium, wait_for
from tests.conftest import composed

HOSTILE = "<script>document.title = 0</script></style></script><b>bold</b> \u202egnirts " + "x" * 400


class Echo:
    """Stands in for the models: the n-th answer is ``<name>: <message> (n)``, in two pieces."""

    def __init__(self, stage: ChatStage, preferences: Path):
        self.stage = replace(stage, preferences=str(preferences))
        self.asked, self.prompts, self.pause, self.text = 0, [], threading.Event(), "{name}: {message} ({asked})"
        self.pause.set()

    def available(self) -> list[str]:
        return ["ppo", "sft"]

    def find(self, name: str) -> None:
        if name not in self.available():
            raise LineageError(f"{name} does not exist")

    def policy(self, name: str) -> SimpleNamespace:
        if self.text == "broken":
            raise ModelError(f"{name} cannot be loaded")
        return SimpleNamespace(talks=True)

    def answer(self, name: str, talk: list, temperature: float, show: Callable[[str], None]) -> Answer:
        self.asked += 1
        self.prompts.append(list(talk))
        text = self.text.format(name=name, message=talk[-1]["content"], asked=self.asked)
        try:
            for piece in (text[:5], text[5:]):
                show(piece)
                self.pause.wait(20)
        except StoppedError:
            return Answer(text[:5], None, ended=False, stopped=True)
        return Answer(text, float(self.asked), ended=True, stopped=False)


@pytest.fixture(scope="module")
def stage() -> ChatStage:
    return composed("stage=chat").stage_as(ChatStage)


@pytest.fixture
def echo(stage: ChatStage, tmp_path: Path) -> Echo:
    return Echo(stage, tmp_path / "chat" / "preferences.jsonl")


@pytest.fixture
def client(echo: Echo) -> Iterator[TestClient]:
    with TestClient(ChatPage(echo, ["sft", "ppo"], "right").app(), base_url="http://127.0.0.1") as found:
        found.headers |= {"x-token": "right"}
        yield found


MESSAGE = {"names": ["sft", "ppo"], "system": "", "temperature": 1.0}


def say(client: TestClient, text: str | None = None, **changed: Any) -> list[dict[str, Any]]:
    body = MESSAGE | changed | ({} if text is None else {"text": text})
    reply = client.post("/say", json=body)
    assert reply.status_code == 200, reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


def test_both_models_answer_the_same_prompt_in_pieces(client: TestClient, echo: Echo) -> None:
    events = say(client, "Hi", system="Be brief.")
    assert [event["piece"] for event in events if "piece" in event] == ["sft: ", "Hi (1)", "ppo: ", "Hi (2)"]
    assert echo.prompts[0] == echo.prompts[1]
    assert [turn["role"] for turn in echo.prompts[0]] == ["system", "user"]
    assert [event["answer"]["remarks"] for event in events if "answer" in event] == ["reward 1.000", "reward 2.000"]
    assert events[-1]["state"] == client.get("/state").json()


def test_a_click_writes_a_pair_that_data_reads_and_can_be_taken_back(client: TestClient, echo: Echo) -> None:
    path = Path(echo.stage.preferences)
    for message, side in (("Hi", "right"), ("Why?", "left"), ("How?", "left")):
        say(client, message)
        assert client.post("/prefer", json={"side": side}).json()["preferred"] == ("left", "right").index(side)
        assert client.post("/prefer", json={"side": side}).status_code == 409  # one verdict per pair
    assert client.post("/undo").json()["written"] == 2
    assert client.post("/undo").status_code == 409
    data = composed("stage=dpo", f"data.path={path}", "data.holdout=0.5").data
    rows = [*load(data, "preferences", "train", 0), *load(data, "preferences", "validation", 0)]
    assert {(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows} == {
        ("ppo: Hi (2)", "sft: Hi (1)"), ("sft: Why? (3)", "ppo: Why? (4)"),
    }  # fmt: skip
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert (first["chosen_model"], first["rejected_model"], first["source"]) == ("ppo", "sft", "chat")
    # The conversation continues from the preferred answer.
    assert [turn["content"] for turn in second["prompt"]] == ["Hi", "ppo: Hi (2)", "Why?"]


def test_answering_again_keeps_the_conversation_and_new_forgets_it(client: TestClient, echo: Echo) -> None:
    say(client, "Hi")
    say(client, "Why?")
    say(client, temperature=0.5, names=["ppo", "ppo"])
    assert echo.prompts[-1] == echo.prompts[-3]
    assert [turn["content"] for turn in echo.prompts[-1]] == ["Hi", "sft: Hi (1)", "Why?"]
    assert client.post("/new").json()["talk"] == []
    assert client.post("/prefer", json={"side": "left"}).status_code == 409


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"text": " "}, 400, "the message is empty"),
        ({}, 400, "there is no message to answer again"),
        ({"text": "Hi", "names": ["sft"]}, 400, "the names of two models"),
        ({"text": "Hi", "names": ["sft", "nowhere"]}, 400, "nowhere does not exist"),
        ({"text": "Hi", "temperature": "warm"}, 400, "needs a temperature in"),
        ({"text": "Hi", "temperature": -1}, 400, "needs a temperature in"),
        ({"text": "x" * 300_000}, 413, "at most"),
    ],
)
def test_an_invalid_message_is_rejected_and_the_next_one_is_answered(
    client: TestClient, body: dict[str, Any], status: int, message: str
) -> None:
    reply = client.post("/say", json=MESSAGE | body)
    assert reply.status_code == status
    assert message in reply.json()["error"]
    assert say(client, "Hi")


def test_nothing_is_read_or_written_without_the_token(client: TestClient, echo: Echo) -> None:
    for method, path in (("GET", "state"), *(("POST", name) for name in ("say", "prefer", "undo", "new", "stop"))):
        assert client.request(method, f"/{path}", headers={"x-token": "wrong"}, json=MESSAGE).status_code == 403
    assert echo.asked == 0


def test_equal_or_stopped_answers_are_not_a_pair(client: TestClient, echo: Echo) -> None:
    echo.text = "the same"
    say(client, "Hi")
    assert client.post("/prefer", json={"side": "left"}).status_code == 409
    assert client.post("/prefer", json={"side": "both"}).status_code == 400
    assert not Path(echo.stage.preferences).exists()


def test_a_model_that_cannot_be_loaded_is_reported(client: TestClient, echo: Echo) -> None:
    echo.text = "broken"
    assert {"error": "sft cannot be loaded"} in say(client, "Hi")
    echo.text = "{name}"
    assert len(say(client, "Hi")[-1]["state"]["answers"]) == 2


def test_a_row_is_appended_behind_an_unfinished_line_and_undo_spares_other_writers(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "whole"}\n{"prompt": "cut')
    found = Preferences(path)
    pair = Pair("p", "a", "b", ("s", "s"))
    found.add(pair, 1)
    assert [json.loads(path.read_text().splitlines()[-1])[key] for key in ("chosen", "rejected")] == ["b", "a"]
    with path.open("a") as other:
        other.write("another\n")
    assert not found.undo()
    found.add(pair, 0)
    assert found.undo()
    assert path.read_text().splitlines()[-1] == "another"


def test_in_a_real_browser_at_both_widths(tmp_path: Path, echo: Echo) -> None:
    """A message is answered and judged by mouse; hostile text is text; Stop ends an answer; a reload shows the same."""
    by = pytest.importorskip("selenium.webdriver.common.by").By
    echo.text = "{name}{asked} " + HOSTILE
    addresses: list[str] = []
    server = threading.Thread(target=serve, args=(echo, ["sft", "ppo"], 0, addresses.append), daemon=True)
    server.start()
    wait_for(lambda: addresses)
    with chromium(tmp_path / "profile") as browser:

        def shown(name: str) -> str:
            return browser.find_element(by.ID, name).text

        def click(name: str) -> None:
            wait_for(lambda: browser.find_element(by.ID, name).is_enabled())
            browser.execute_script("document.getElementById(arguments[0]).scrollIntoView({block: 'center'})", name)
            browser.find_element(by.ID, name).click()

        for width, height in ((1280, 900), (390, 844)):
            browser.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
            )
            browser.get(addresses[0])
            wait_for(lambda: browser.find_element(by.ID, "name0").get_property("value") == "sft")
            browser.find_element(by.ID, "message").send_keys(f"at {width} <b>\n")
            wait_for(lambda asked=f"at {width} <b>": asked in shown("talk") and "reward" in shown("remarks1"))
            assert "<script>" in shown("text0")
            assert not browser.find_elements(by.CSS_SELECTOR, ".answer *, .turn span *")
            tops = [browser.find_element(by.ID, f"text{side}").rect["y"] for side in (0, 1)]
            assert (tops[0] == tops[1]) is (width > 640)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            click("prefer1")
            wait_for(lambda: "written to" in shown("count"))
            browser.refresh()
            wait_for(lambda: "better" in browser.find_element(by.ID, "text1").get_attribute("class"))
        echo.pause.clear()
        click("again")
        wait_for(lambda: shown("text0"))
        click("stop")
        echo.pause.set()
        wait_for(lambda: shown("remarks0") == "stopped")
        assert browser.title == "Chat with two models"
        assert not [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
    assert len(Path(echo.stage.preferences).read_text().splitlines()) == 2
