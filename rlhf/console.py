"""What a person sees while a stage runs: a progress bar, the last metrics, and tables of samples."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text


class SafeConsole(Console):
    """Sends no control character but its own: text may be a model's, a file's or a server's."""

    def render(self, *args: Any, **named: Any) -> Iterator[Segment]:
        for segment in super().render(*args, **named):
            yield segment if segment.control else segment._replace(text=without_controls(segment.text))


def without_controls(text: str) -> str:
    """Return ``text`` with every character that is neither printable nor a line break replaced."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


console = SafeConsole(soft_wrap=False)


class Bar:
    """A progress bar on a terminal; elsewhere a line at every tenth of the way, so that a log stays readable."""

    def __init__(self, title: str, total: int, start: int = 0):
        self.title, self.total, self.step = title, total, start
        self._told = 10 * start // max(total, 1)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=total, completed=start, metrics="")
        self._progress.start()

    def update(self, step: int, metrics: dict[str, Any] | None = None) -> None:
        self.step = step
        shown = None if metrics is None else short(metrics)
        self._progress.update(self._task, completed=step, **({} if shown is None else {"metrics": shown}))
        tenth = 10 * step // max(self.total, 1)
        if not console.is_terminal and shown and tenth > self._told:
            self._told = tenth
            console.print(f"{self.title} {step}/{self.total}  {shown}", highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()


def short(metrics: dict[str, Any], most: int = 4) -> str:
    """The first few numbers, in a form that fits behind a bar."""
    numbers = [(key, value) for key, value in metrics.items() if isinstance(value, int | float)]
    return "  ".join(f"{key.rpartition('/')[2]} {value:.3g}" for key, value in numbers[:most])


def show_samples(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of text. What a model wrote is data: nothing in it is markup, and its control characters are not sent."""
    table = Table(title=title, title_justify="left", show_lines=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(without_blank_lines(cell))) for cell in row))
    console.print(table)


def without_blank_lines(text: str) -> str:
    """A policy that does not stop may write nothing else, and a table would fill the screen with them."""
    return re.sub(r"\n\s*\n", "\n", text.strip())


def printable(text: str, most: int = 400) -> str:
    kept = without_controls(text)
    return kept if len(kept) <= most else kept[: most - 1] + "…"
