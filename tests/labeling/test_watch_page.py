import json
import shutil
import threading
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the page's server is an extra: pip install 'rlhf[label]'")

from starlette.testclient import TestClient

from rlhf.evaluation.reporting import live
from rlhf.labeling.watch_page import WatchPage, serve
from tests.browser import chromium, wait_for
from tests.evaluation.reporting.test_live import HOSTILE, training, write_run


def test_the_state_needs_the_token_and_lists_the_runs(tmp_path: Path) -> None:
    training(tmp_path)
    with TestClient(WatchPage(tmp_path, 2.0, "right").app(), base_url="http://127.0.0.1") as client:
        assert client.get("/state").status_code == 403
        assert client.get("/state", headers={"x-token": "right", "origin": "https://evil.example"}).status_code == 403
        state = client.get("/state", headers={"x-token": "right"}).json()
        page = client.get("/?token=right")
    assert (state["every"], [run["path"] for run in state["runs"]]) == (2.0, ["almanac/ppo"])
    assert 'id="data">null</script>' in page.text
    assert "{{" not in page.text


# Texts of the axes of each chart; elements would be replaced while they are read.
TICKS = """
const texts = (chart, anchor) => [...chart.querySelectorAll(`text[text-anchor=${anchor}]`)].map(one => one.textContent);
return [...document.querySelectorAll("svg")].map(chart => [texts(chart, "middle"), texts(chart, "end")]);
"""


def test_the_page_follows_runs_as_a_file_and_from_a_server(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    fall = {"name": "objective/scores", "best": 2.0, "peak": 4, "update": 9, "last": 1.5}
    work = training(root, diagnoses=[{"step": 12, "text": HOSTILE, "action": "warned"}], falls=[fall])
    (work / "samples.jsonl").write_text('{"step": 30, "prompt": "<b>p</b>", "completion": "<i>c</i>"}\n')
    for rate in ("0.1", "0.2"):
        write_run(
            root / "almanac" / "dpo" / f"beta-{rate}",
            "dpo",
            [{"step": 1, "train/loss": 1.0}, {"step": 2, "train/loss": 0.5}],
        )
    live.write(root, tmp_path / "watch.html", 5.0)
    addresses: list[str] = []
    ready = threading.Event()

    def tell(address: str) -> None:
        addresses.append(address)
        ready.set()

    with chromium(tmp_path / "profile") as browser:
        threading.Thread(target=serve, args=(root, 0.5, 0, tell), daemon=True).start()
        ready.wait(20)
        for address in ((tmp_path / "watch.html").as_uri(), addresses[0]):
            for width in (1280, 390):
                browser.execute_cdp_cmd(
                    "Emulation.setDeviceMetricsOverride",
                    {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
                )
                browser.get(address)
                wait_for(lambda: "update 12: </script>" in browser.find_element("id", "main").text)
                for text in (
                    "scores: fell at update 9 while the score rose",
                    "step 30 of 50",
                    "almanac/dpo",
                    "2 runs of stage=dpo",
                ):
                    wait_for(lambda text=text: text in browser.find_element("id", "main").text)
                assert len(browser.find_elements("css selector", "line.fell")) == 1
                ticks = browser.execute_script(TICKS)
                assert ticks
                for steps, values in ticks:
                    assert all(float(step).is_integer() for step in steps)
                    assert len(values) > 1
                assert browser.execute_script("return document.documentElement.scrollWidth") <= width

        def open_samples() -> bool:
            [samples] = [one for one in browser.find_elements("css selector", "summary") if "samples" in one.text]
            samples.click()
            return True

        wait_for(open_samples)
        wait_for(lambda: "<i>c</i>" in browser.find_element("id", "main").text)
        shutil.move(work, work.with_name("ppo"))
        (work.with_name("ppo") / "run.json").write_text(
            (work.with_name("ppo") / "run.json").read_text().replace('"running"', '"finished"')
        )
        wait_for(lambda: "0 runs not finished, 3 finished" in browser.find_element("id", "note").text)
        assert not [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]]


def test_the_token_ledger_opens_scrubs_and_colors_its_tokens(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    work = training(root)
    response = {"prompt": "Which tree?", "tokens": ["An ", "<b>oak"], "old": [-1.0, -2.0], "reference": [-1.0, -1.0]}
    written = [
        {"step": step, "responses": [response | {
            "score": step / 10, "new": [-0.5, -2.0 - step], "advantage": [0.5, -step], "value": [0.1, 0.2],
            "clipped": [0, int(step == 2)]}]}
        for step in (1, 2)
    ]  # fmt: skip
    (work / live.LEDGER).write_text("".join(json.dumps(line) + "\n" for line in written))
    live.write(root, tmp_path / "watch.html", 5.0)
    with TestClient(WatchPage(root, 2.0, "right").app(), base_url="http://127.0.0.1") as client:
        found = client.get("/ledger?run=almanac/ppo", headers={"x-token": "right"}).json()
    assert found == written
    with chromium(tmp_path / "profile") as browser:
        browser.get((tmp_path / "watch.html").as_uri())

        def opened() -> bool:
            [button] = [one for one in browser.find_elements("css selector", "button") if one.text == "Token ledger"]
            button.click()
            return "Update 2, score 0.2" in browser.find_element("id", "ledger").text

        wait_for(opened)
        ledger = browser.find_element("id", "ledger")
        options = browser.execute_script("return [...document.querySelectorAll('#ledger option')].map(one => one.text)")
        assert options[0] == "2 updates: Which tree?"
        first, second = ledger.find_elements("css selector", ".token")
        assert (first.text, second.text) == ("An ", "<b>oak")
        assert "clipped" in second.get_attribute("class").split()
        blue, orange = (one.value_of_css_property("background-color") for one in (first, second))
        assert blue.startswith("rgba(47, 129, 247, 0.17")  # .7 of .5 over the largest advantage, 2
        assert orange.startswith("rgba(214, 120, 20, 0.7")
        second.click()
        assert "advantage -2" in ledger.text
        assert "clipped yes" in ledger.text
        browser.execute_script(
            "const slider = document.querySelector('#ledger input[type=range]');"
            "slider.value = 0; slider.dispatchEvent(new Event('input'))"
        )
        assert "Update 1, score 0.1" in ledger.text
        assert "advantage -1" in ledger.text
        assert "clipped no" in ledger.text
