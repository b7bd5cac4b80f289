"""The page is complete, self-contained and small enough, and its script works in a real browser."""

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rlhf.evaluation.comparison.comparison import Comparison
from rlhf.evaluation.reporting import page
from rlhf.evaluation.reporting.drawing import Drawing
from rlhf.evaluation.reporting.figures import figures
from tests.evaluation.making import HOSTILE, comparison, whole

Visit = Callable[..., Any]
SPLITTERS = [
    "</script><script>document.title = 'broken'</script>",
    "</style><style>body { display: none }</style>",
    '<img src=x onerror="document.title = 1"> <svg onload=alert(1)>',
    "<!-- <script> --> ]]> \u2028 \u2029 &lt; &amp;",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \N{FAMILY}\N{ZERO WIDTH JOINER} \N{GRINNING FACE}",
    "{{ 7 * 7 }} {% raw %} ${alert(1)} javascript:alert(1)",
    "long " * 20_000,
]


@cache
def drawings() -> list[Drawing]:
    return figures(whole())


def text_of(example: Comparison) -> str:
    """Return the page with the figures of another comparison, because drawing is slow."""
    return page.render(example, drawings())


def block(text: str) -> dict[str, Any]:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL).group(1))


def written(example: Comparison, folder: Path) -> Path:
    path = folder / "report.html"
    path.write_text(text_of(example), encoding="utf-8")
    return path


class Parser(HTMLParser):
    """Collects the elements of a page and checks that all are closed."""

    VOID = ("meta", "link", "img", "input", "br")

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_self_contained() -> None:
    parser = Parser(text_of(whole()))
    assert parser.open == []
    for tag, attributes in parser.elements:
        for name in ("src", "href", "xlink:href", "action"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    scripts = [attributes for tag, attributes in parser.elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}, {}]
    ids = [attributes["id"] for _, attributes in parser.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_policy_allows_only_the_script_of_the_page() -> None:
    text = text_of(whole())
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text


def test_equal_comparisons_give_equal_pages() -> None:
    assert text_of(whole()) == text_of(whole())


@pytest.mark.parametrize("text", [*HOSTILE, *SPLITTERS])
def test_no_text_can_end_the_data_block(text: str) -> None:
    example = comparison([text, "a"], names=("</script>", "p<b>po"))
    found = text_of(example)
    parser = Parser(found)
    assert [attributes for tag, attributes in parser.elements if tag == "script"] == [
        {"type": "application/json", "id": "data"}, {},
    ]  # fmt: skip
    assert not [tag for tag, _ in parser.elements if tag in ("img", "b")]
    responses = block(found)["prompts"][0]["responses"]
    assert ["".join(responses[name][0]["pieces"]) for name in ("</script>", "p<b>po")] == [text] * 2
    assert block(found)["prompts"][0]["prompt"] == [["", text]]


def test_half_a_surrogate_pair_can_be_written() -> None:
    assert page.json_block("a\ud800<").encode() == b'"a\\ud800\\u003c"'


def test_the_questions_are_first_and_work_without_a_script() -> None:
    found = text_of(whole())
    assert "2 samples each" in found
    assert "1 sample each" in text_of(whole(samples=1))
    assert found.index("The <mark>ppo</mark> answer.") < found.index('id="tables"') < found.index('id="figures"')
    assert block(found)["prompts"][0]["prompt"] == [["user", "Who won the World Cup?"]]


def test_words_are_marked_against_the_reference() -> None:
    responses = block(text_of(whole()))["prompts"][1]["responses"]
    assert responses["ppo"][0]["pieces"] == ["The ", "ppo", " answer 0 is sample 0."]
    assert responses["sft"][0]["pieces"] == ["The sft answer 0 is sample 0."]
    assert "The <mark>ppo</mark> answer." in text_of(whole())


def test_samples_beyond_the_budget_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    example = whole(samples=3)
    one = sum(len(texts[0]) for answers in example.answers.values() for texts in answers.texts)
    for room, samples in ((3 * one, 3), (3 * one - 1, 2), (one, 1)):
        monkeypatch.setattr(page, "BUDGET", room)
        found = block(text_of(example))
        assert (found["samples"], len(found["prompts"][0]["responses"]["sft"])) == (samples, samples)
        assert found["prompts"][0]["means"] == block(text_of(whole(samples=3)))["prompts"][0]["means"]
    monkeypatch.setattr(page, "BUDGET", 0)
    monkeypatch.setattr(page, "SHORTEST", 10)
    [response] = block(text_of(example))["prompts"][0]["responses"]["sft"]
    assert "".join(response["pieces"]) == "The sft an"
    assert response["cut"] == len(example.answers["sft"].texts[-1][0]) - 10


def test_a_large_report_stays_small() -> None:
    """1,000 prompts, 5 stages, 4 samples of 900 characters: 18 million in all."""
    assert len(text_of(large()).encode()) < 20_000_000


def large() -> Comparison:
    example = whole(prompts=1000, samples=4)
    example.answers["far"] = example.answers["ppo"]
    example.metrics["far"] = example.metrics["ppo"]
    example.previous["far"] = "ppo"
    for answers in example.answers.values():
        answers.texts[:] = [[f"{text} " * 30 for text in of] for of in answers.texts]
    return example


def test_the_page_opens_in_under_a_second(visit: Visit, tmp_path: Path) -> None:
    """Five prompts and four stages, until the layout is complete."""
    path = written(whole(prompts=5, samples=1), tmp_path)
    taken = []
    for _ in range(3):  # the browser is slower at first, and the machine is shared
        started = time.monotonic()
        browser = visit(path)
        browser.execute_script("return document.body.offsetHeight")
        taken.append(time.monotonic() - started)
    assert len(browser.find_elements("css selector", "#rows .row")) == 5
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert min(taken) < 1


def select(browser: Any, name: str, text: str) -> None:
    [option] = [o for o in browser.find_elements("css selector", f"select[name={name}] option") if o.text == text]
    option.click()


def visible(browser: Any) -> list[str]:
    return [title.text for title in browser.find_elements("css selector", "#rows .row:not([hidden]) h3")]


def cells(browser: Any) -> list[list[str]]:
    """Return title and response of the columns of the first row, after scrolling to it, so that it is drawn."""
    from selenium.webdriver.support.wait import WebDriverWait

    def drawn(browser: Any) -> bool:
        first = browser.find_element("css selector", "#rows .row:first-child .cell:not([hidden])")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", first)
        return first.text != ""

    WebDriverWait(browser, 30).until(drawn)
    found = browser.find_elements("css selector", "#rows .row:first-child .cell:not([hidden])")
    return [cell.text.split("\n")[:2] for cell in found]


def count(browser: Any) -> str:
    return browser.find_element("id", "count").text


def test_prompts_are_filtered_by_task_by_outcome_and_by_words(visit: Visit, tmp_path: Path) -> None:
    example = whole()
    browser = visit(written(example, tmp_path))
    assert count(browser) == "6 of 6 prompts"
    select(browser, "task", "format")
    assert count(browser) == "3 of 6 prompts"
    select(browser, "task", "all")
    select(browser, "outcome", "ppo lost to sft")
    ppo, sft = (example.answers[name].scores["gold"] for name in ("ppo", "sft"))
    lost = [row["prompt"][0]["content"] for row, a, b in zip(example.prompts, ppo, sft, strict=True) if sum(a) < sum(b)]
    assert sorted(visible(browser)) == sorted(lost)
    assert 0 < len(lost) < 6
    select(browser, "reward", "reward model")  # PPO never loses by the reward model here
    assert count(browser) == "0 of 6 prompts"
    select(browser, "outcome", "ppo beat sft")
    assert count(browser) == "6 of 6 prompts"
    browser.find_element("name", "search").send_keys("question 3")
    assert visible(browser) == ["Question 3?"]


def test_stages_are_hidden_and_samples_chosen(visit: Visit, tmp_path: Path) -> None:
    browser = visit(written(whole(), tmp_path))
    browser.execute_script("document.getElementById('responses').scrollIntoView()")
    assert cells(browser)[3] == ["ppo", "The ppo answer 5 is sample 0."]
    select(browser, "sample", "2")
    assert cells(browser)[3] == ["ppo", "The ppo answer 5 is sample 1."]
    browser.find_elements("css selector", "input[name=stage]")[0].click()
    assert [cell[0] for cell in cells(browser)] == ["sft", "dpo", "ppo"]
    assert browser.find_element("css selector", "#rows .row:first-child .cell:not([hidden]) mark").text == "dpo"


def test_the_largest_loss_comes_first(visit: Visit, tmp_path: Path) -> None:
    example = whole()
    browser = visit(written(example, tmp_path))
    select(browser, "order", "dpo's largest loss first")
    dpo, sft = (example.answers[name].scores["gold"] for name in ("dpo", "sft"))
    gaps = {
        row["prompt"][0]["content"]: sum(a) - sum(b) for row, a, b in zip(example.prompts, dpo, sft, strict=True)
    }  # fmt: skip
    assert [gaps[text] for text in visible(browser)] == sorted(gaps.values())
    assert len(set(gaps.values())) > 2


def test_the_keyboard_reaches_everything(visit: Visit, tmp_path: Path) -> None:
    browser = visit(written(whole(), tmp_path))
    focused = "return document.activeElement.querySelector('h3')?.textContent"
    body = browser.find_element("tag name", "body")
    body.send_keys("j")
    assert browser.execute_script(focused) == "Who won the World Cup?"
    browser.switch_to.active_element.send_keys("jjk")
    assert browser.execute_script(focused) == "Question 0?"
    browser.switch_to.active_element.send_keys("/")
    assert browser.execute_script("return document.activeElement.name") == "search"
    browser.switch_to.active_element.send_keys("jk")  # shortcuts are off in a text field
    assert browser.execute_script("return document.activeElement.value") == "jk"
    names = (
        "return [...document.querySelectorAll('select, input')].map(e => e.labels[0].textContent.trim()).every(Boolean)"
    )
    assert browser.execute_script(names)


def test_hostile_responses_are_text(visit: Visit, tmp_path: Path) -> None:
    example = comparison([*HOSTILE, *SPLITTERS])
    browser = visit(written(example, tmp_path))
    assert browser.title == "What each stage changed: sft, ppo"
    browser.execute_script("document.querySelectorAll('#rows .row').forEach(fill)")
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#rows .row')].map(row => row.querySelector('.cell .text').textContent)"
    )
    assert shown == [*HOSTILE, *SPLITTERS]
    assert browser.execute_script("return document.querySelectorAll('#rows img, #rows script, #rows svg').length") == 0
    assert browser.find_element("tag name", "h1").is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_and_is_readable_on_any_screen(visit: Visit, tmp_path: Path, width: int, scheme: str) -> None:
    example = comparison([*SPLITTERS, "w" * 500])
    browser = visit(written(example, tmp_path), width, scheme)
    browser.execute_script("document.querySelectorAll('#rows .row').forEach(fill)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    colors = browser.execute_script("const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]")
    ink, paper = (sum(map(int, re.findall(r"\d+", color)[:3])) for color in colors)
    assert (ink < 150 and paper > 700) if scheme == "light" else (ink > 600 and paper < 100)
    left = "return [...document.querySelectorAll('#rows .row:first-child .cell')].map(c => c.getBoundingClientRect().x)"
    columns = browser.execute_script(left)
    assert (len(set(columns)) == 1) is (width < 500)  # one below the other on a phone, side by side elsewhere


@pytest.mark.parametrize("width", [360, 1280])
def test_figures_and_captions_are_readable_and_uncut(visit: Visit, tmp_path: Path, width: int) -> None:
    browser = visit(written(whole(), tmp_path), width)
    scale = "s => s.getBoundingClientRect().width / s.getAttribute('width')"
    scales = browser.execute_script(f"return [...document.querySelectorAll('figure svg')].map({scale})")
    assert len(scales) == len(drawings())
    assert all(0.55 < one <= 1.001 for one in scales)
    if width > 1000:
        hidden = "return [...document.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth).length"
        assert browser.execute_script(hidden) == 0
    ends = "return [...document.querySelectorAll('caption span')].map(s => s.getBoundingClientRect().right)"
    assert max(browser.execute_script(ends)) <= width


def test_printing_shows_every_row(visit: Visit, tmp_path: Path) -> None:
    browser = visit(written(large(), tmp_path))
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script("return document.querySelectorAll('#rows .row[data-filled]').length") == 1000


def test_a_large_report_scrolls(visit: Visit, tmp_path: Path) -> None:
    browser = visit(written(large(), tmp_path))
    filled = "return document.querySelectorAll('#rows .row[data-filled]').length"
    assert browser.execute_script("return document.querySelectorAll('#rows .row').length") == 1000
    assert browser.execute_script(filled) < 50
    browser.execute_script("document.querySelector('#rows .row:last-child').scrollIntoView()")
    deadline = time.monotonic() + 10
    while not browser.execute_script("return document.querySelector('#rows .row:last-child').dataset.filled"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert browser.execute_script(filled) < 200
    started = time.monotonic()
    select(browser, "task", "format")
    assert count(browser) == "500 of 1000 prompts"
    assert time.monotonic() - started < 5
