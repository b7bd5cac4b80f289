import io
import re

import pytest
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rlhf import console as progress
from rlhf.cli import main
from rlhf.errors import DataError


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    out = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=out, width=100))
    return out


def test_a_log_has_a_line_for_every_tenth(screen: io.StringIO) -> None:
    bar = progress.Bar("sft", 40)
    for step in range(1, 41):
        bar.update(step, {"train/loss": 1 / step})
    bar.close()
    lines = screen.getvalue().strip().splitlines()
    assert len(lines) == 10
    assert lines[0].split() == ["sft", "4/40", "loss", "0.25"]


def test_what_a_model_wrote_is_shown_as_text(screen: io.StringIO) -> None:
    hostile = "[red]x[/red] [/] :smile: \x1b[31mred\x1b[0m \x07 ok"
    progress.show_samples("t", ("prompt", "completion"), [("p", hostile)])
    shown = screen.getvalue()
    assert "[red]x[/red] [/] :smile:" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_whatever_is_printed_has_no_control_codes_but_the_console_s_own() -> None:
    """Text, markup, tables and rules alike: a model's, a file's or a server's words may be in any of them."""
    out = io.StringIO()
    console = progress.SafeConsole(file=out, width=60, force_terminal=True, color_system="standard")
    hostile = "a\x1b]0;title\x07b\x9b31mc\u202ed"
    table = Table(title=hostile)
    table.add_column(hostile)
    table.add_row(Text(hostile))
    for one in (hostile, Text(hostile), table, Panel(hostile)):
        console.print(one, markup=False)
    shown = out.getvalue()
    assert shown.count("\N{REPLACEMENT CHARACTER}") >= 12
    assert not set("\x07\x9b\u202e") & set(shown)
    assert not re.search(r"\x1b(?!\[[\d;]*m)", shown)  # colours are ours


def test_an_error_on_the_terminal_has_none_either(capsys: pytest.CaptureFixture) -> None:
    main._tell(DataError("line 3 holds \x1b[2Jnothing"))
    assert capsys.readouterr().err == "rlhf: line 3 holds \N{REPLACEMENT CHARACTER}[2Jnothing\n"


def test_long_text_is_cut() -> None:
    assert progress.printable("a" * 500, most=10) == "a" * 9 + "…"


def test_short_by_hand() -> None:
    assert progress.short({"train/loss": 0.12345, "note": "x", "train/lr": 1e-5}) == "loss 0.123  lr 1e-05"


def test_blank_lines_do_not_fill_the_screen() -> None:
    assert progress.without_blank_lines("\n\na\n\n \n\n\n  b\nc\n\n\n") == "a\n  b\nc"
