import io

import pytest
from rich.console import Console

from rlhf import console


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    out = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=out, width=100))
    return out


def test_a_log_has_a_line_for_every_tenth(screen: io.StringIO) -> None:
    bar = console.Bar("sft", 40)
    for step in range(1, 41):
        bar.update(step, {"train/loss": 1 / step})
    bar.close()
    lines = screen.getvalue().strip().splitlines()
    assert len(lines) == 10
    assert lines[0].split() == ["sft", "4/40", "loss", "0.25"]


def test_what_a_model_wrote_is_shown_as_text(screen: io.StringIO) -> None:
    hostile = "[red]x[/red] [/] :smile: \x1b[31mred\x1b[0m \x07 ok"
    console.show_samples("t", ("prompt", "completion"), [("p", hostile)])
    shown = screen.getvalue()
    assert "[red]x[/red] [/] :smile:" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_long_text_is_cut() -> None:
    assert console.printable("a" * 500, most=10) == "a" * 9 + "…"


def test_short_by_hand() -> None:
    assert console.short({"train/loss": 0.12345, "note": "x", "train/lr": 1e-5}) == "loss 0.123  lr 1e-05"


def test_blank_lines_do_not_fill_the_screen() -> None:
    assert console.without_blank_lines("\n\na\n\n \n\n\n  b\nc\n\n\n") == "a\n  b\nc"
