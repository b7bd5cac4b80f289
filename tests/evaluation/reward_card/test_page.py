"""The page of a report card is complete and self-contained, and text on it is text."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.evaluation.reward_card import page, report
from rlhf.evaluation.reward_card.autopsy import Autopsy, Neighbor
from rlhf.evaluation.reward_card.card import Card
from tests.evaluation.making import HOSTILE
from tests.evaluation.reporting.test_page import SPLITTERS, Parser

Make = Callable[..., Card]
STEPS = [(" so", 0.1), (" good", -0.5), ("<b>!</b>", 0.25), (" x", 0.0), (" y", 0.01), (" z", -0.02), (" end", 0.3)]


def examined(card: Make, text: str = "<script>document.title = 1</script>") -> Card:
    """Return a card with the autopsy of its first pair, which is wrong; ``text`` is in all that is shown of it."""
    made = card(lambda text: 2.0 * ("good" in text))
    made.pairs.rows[0] |= {"prompt": f"prompt {text}"}
    row = {"prompt": f"taught {text}", "chosen": f"yes {text}", "rejected": f"no {text}"}
    made.autopsies = [Autopsy(0, [Neighbor(0.5, row)], [Neighbor(-0.25, row)], STEPS, [(text, 1.0)])]
    made.notes = [f"note {text}"]
    return made


def page_of(card: Card) -> str:
    return page.render(card, "wide", list(report.tables(card)), {})


def test_the_page_has_every_table_and_the_figures_in_it(card: Make, tmp_path: Path) -> None:
    made = examined(card)
    report.write(made, tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    parser = Parser(text)
    assert parser.open == []
    assert "right on 87.5 % of 24 held-out pairs" in text
    assert "does not beat TF-IDF" in text
    shown = re.findall(r"<summary>([^<]*)</summary>", text)
    assert [title for title, _, _ in report.tables(made)] == shown[:-4]  # the others are the figures
    images = [attributes for tag, attributes in parser.elements if tag == "img"]
    assert len(images) == 4
    assert all(one["src"].startswith("data:image/png;base64,") and one["alt"] for one in images)
    assert not [tag for tag, _ in parser.elements if tag in ("script", "link")]


def test_an_autopsy_is_behind_a_disclosure_with_its_tokens_and_training_pairs(card: Make) -> None:
    text = page_of(examined(card))
    own = text.partition('<section id="wrong"')[2].partition("</section>\n<section id")[0]
    assert own.count("<details>") == 1
    assert "score difference -2.00" in own
    marked = re.findall(r'<mark>([^<]*)</mark><span class="soft">([^<]*)</span>', own)
    assert marked == [
        (" so", "+0.10"), (" good", "-0.50"), ("&lt;b&gt;!&lt;/b&gt;", "+0.25"), (" z", "-0.02"), (" end", "+0.30"),
        ("&lt;script&gt;document.title = 1&lt;/script&gt;", "+1.00"),
    ]  # fmt: skip
    assert "</span> x y<mark>" in own
    assert "training pair for the label, influence +0.5" in own
    assert "training pair against the label, influence -0.25" in own


def test_without_autopsies_there_is_no_section(card: Make) -> None:
    made = examined(card)
    made.autopsies = []
    assert 'href="#wrong"' not in page_of(made)


@pytest.mark.parametrize("text", [*HOSTILE, *SPLITTERS])
def test_no_text_becomes_markup(card: Make, text: str) -> None:
    plain, hostile = (Parser(page_of(examined(card, given))) for given in ("plain", text))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]


def test_a_browser_shows_it_at_both_widths(card: Make, tmp_path: Path, visit: Callable[..., Any]) -> None:
    report.write(examined(card, "long " * 400), tmp_path)
    for width, scheme in ((1280, "light"), (390, "dark")):
        opened = visit(tmp_path / "report.html", width, scheme)
        opened.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
        [image] = opened.execute_script(
            "return [...document.images].filter(one => one.alt === 'Score and length').map(one => one.naturalWidth)"
        )
        assert image > 100
