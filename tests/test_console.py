import io
import re
from functools import partial

import pytest
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rlhf import console
from rlhf import console as progress
from rlhf.cli import main
from rlhf.errors import DataError
from rlhf.runs import headlines


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    out = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=out, width=100))
    return out


def described(metrics: dict) -> list[str]:
    return [f"{key} {value:.3g}" for key, value in metrics.items()]


def test_a_log_has_a_line_for_every_tenth(screen: io.StringIO) -> None:
    bar = progress.Bar("sft", 40, describe=described)
    for step in range(1, 41):
        bar.update(step, {"train/loss": 1 / step})
    bar.close()
    lines = screen.getvalue().strip().splitlines()
    assert len(lines) == 10
    assert lines[0].split() == ["sft", "4/40", "train/loss", "0.25"]


def test_a_log_has_every_evaluation_and_repeats_none(screen: io.StringIO) -> None:
    bar = console.Bar("sft", 40, describe=described)
    bar.update(4, {"train/loss": 1})
    bar.update(5, {"eval/loss": 2})
    bar.update(40, {"train/loss": 3})
    bar.update(40, {"eval/loss": 4})  # of the end, with the last step
    bar.close()
    bar.close()
    lines = [" ".join(line.split()) for line in screen.getvalue().splitlines()]
    assert lines == ["sft 4/40 train/loss 1", "sft 5/40 eval/loss 2", "sft 40/40 train/loss 3", "sft 40/40 eval/loss 4"]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("stage", headlines.PROGRESS)
def test_a_terminal_has_steps_times_and_the_last_evaluation(
    stage: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=out, width=width, force_terminal=True, color_system=None))
    title = "reward, member 2 of 3" if stage == "reward" else stage
    bar = console.Bar(title, 123456, describe=partial(headlines.progress, stage))
    bar.update(5000, dict.fromkeys(headlines.PROGRESS[stage], 0.001234))
    bar.update(123456, {key: 0.004321 for key in headlines.PROGRESS[stage] if not key.startswith("train/")})
    bar.close()
    *_, above, below = [re.sub(r"\x1b\[[\d?]*\w", "", line).rstrip() for line in out.getvalue().splitlines()][:-1]
    assert re.fullmatch(rf"{title} ━+ 123456/123456 \d:\d\d:\d\d \d:\d\d:\d\d left", above)
    assert max(len(above), len(below)) <= width
    assert "0.00432" in below
    assert "…" not in above + below


def test_metrics_that_do_not_fit_are_left_out_as_a_whole() -> None:
    assert console.fitting(["loss 1", "margin 0.5"], 18) == "loss 1  margin 0.5"
    assert console.fitting(["loss 1", "margin 0.5"], 17) == "loss 1"
    assert console.fitting(["loss 1"], 3) == ""


def test_durations() -> None:
    seconds = (0.5, 59, 90, 138, 7200, 3600 * 23, 86400 * 123)
    times = ["0.5 seconds", "59 seconds", "1.5 minutes", "2.3 minutes", "2 hours", "23 hours", "120 days"]
    assert [console.duration(n) for n in seconds] == times


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
    assert not re.search(r"\x1b(?!\[[\d;]*m)", shown)  # only our color codes


def test_an_error_on_the_terminal_has_none_either(capsys: pytest.CaptureFixture) -> None:
    main._report(DataError("line 3 holds \x1b[2Jnothing"))
    assert capsys.readouterr().err == "rlhf: line 3 holds  [2Jnothing\n"


def test_long_text_is_cut() -> None:
    assert progress.printable("a" * 500, most=10) == "a" * 9 + "…"


def test_blank_lines_do_not_fill_the_screen() -> None:
    assert progress.without_blank_lines("\n\na\n\n \n\n\n  b\nc\n\n\n") == "a\n  b\nc"


def test_a_noun_is_in_the_plural_unless_its_count_is_one() -> None:
    assert [progress.plural(count, "row") for count in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
