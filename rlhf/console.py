"""Terminal output of stages: progress bar, latest metrics, tables of samples."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text


class SafeConsole(Console):
    """A rich console that removes control characters from text, which may come from a model, a file or a server."""

    def render(self, *args: Any, **named: Any) -> Iterator[Segment]:
        """Yield the segments with control characters replaced, except rich's own."""
        for segment in super().render(*args, **named):
            yield segment if segment.control else segment._replace(text=without_controls(segment.text))


def without_controls(text: str) -> str:
    """Return ``text`` with every character that is neither printable nor a line break replaced."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


console = SafeConsole(soft_wrap=False)

Describe = Callable[[Mapping[str, Any]], list[str]]


class _Lines(Progress):
    """A line with bar and times, and a line with metrics; both fit into 80 columns."""

    parts: Sequence[str] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bar and, if there are metrics, the line of metrics."""
        yield self.make_tasks_table(self.tasks)
        if self.parts:
            yield Text(f"  {fitting(self.parts, self.console.width - 2)}", no_wrap=True)


class Bar:
    """A progress bar on a terminal; otherwise a line after each tenth of the steps and each evaluation.

    ``describe`` returns formatted metrics, most important first. A ``passing`` bar is removed at its end.
    """

    def __init__(
        self,
        title: str,
        total: int,
        start: int = 0,
        describe: Describe = lambda metrics: [],
        passing: bool = False,
    ):
        self.title, self.total, self.step, self._describe = title, total, start, describe
        self._printed = 10 * start // max(total, 1)
        self._metrics: dict[str, Any] = {}
        self._progress = _Lines(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=max(4, min(40, console.width - len(title) - 2 * len(str(total)) - 26))),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("left", style="progress.remaining"),
            console=console,
            transient=passing,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=total, completed=start)
        self._progress.start()

    def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Show ``step``. A terminal shows the last value of each metric, a log only new values."""
        self.step = step
        self._metrics |= metrics or {}
        self._progress.parts = self._describe(self._metrics)
        self._progress.update(self._task, completed=step)
        tenth = 10 * step // max(self.total, 1)
        evaluated = any(key.startswith("eval/") for key in metrics or {})
        if not console.is_terminal and metrics and (evaluated or tenth > self._printed):
            self._printed = tenth
            self._print()

    def close(self) -> None:
        """Print the remaining metrics and stop the bar. A second call has no effect."""
        if not console.is_terminal:
            self._print()
        self._progress.stop()

    def _print(self) -> None:
        if parts := self._describe(self._metrics):
            console.print(f"{self.title} {self.step}/{self.total}  {'  '.join(parts)}", highlight=False, soft_wrap=True)
        self._metrics = {}


def fitting(parts: Sequence[str], width: int) -> str:
    """Return the first ``parts`` that fit into ``width`` columns, uncut, joined by two spaces."""
    kept = [number for number in range(1, len(parts) + 1) if len("  ".join(parts[:number])) <= width]
    return "  ".join(parts[: max(kept, default=0)])


def duration(seconds: float) -> str:
    """Return a duration with two digits, in the largest unit that is at least 1."""
    for limit, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= limit:
            return f"{float(f'{seconds / limit:.2g}'):g} {unit}"
    return f"{float(f'{seconds:.2g}'):g} seconds"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, which ends in s unless the count is 1."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def show_samples(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of text. Cells are data: markup is not interpreted, and control characters are replaced."""
    table = Table(title=title, title_justify="left", show_lines=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(without_blank_lines(cell))) for cell in row))
    console.print(table)


def without_blank_lines(text: str) -> str:
    """Return ``text`` without blank lines, which an untrained policy may produce in large numbers."""
    return re.sub(r"\n\s*\n", "\n", text.strip())


def printable(text: str, most: int = 400) -> str:
    """Return ``text`` without control characters, cut to ``most`` characters."""
    kept = without_controls(text)
    return kept if len(kept) <= most else kept[: most - 1] + "…"
