"""The leaderboard of a sweep: one row per configuration, best first; on the terminal, and as Markdown, CSV and JSON."""

import csv
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from rlhf.config import objective as objectives
from rlhf.config.objective import METRICS, USUAL
from rlhf.console import console
from rlhf.errors import LineageError
from rlhf.evaluation.comparison.frontier import efficient
from rlhf.evaluation.sweeps.jobs import FAILED, FINISHED, Job, digest
from rlhf.runs.commands import command, setting
from rlhf.storage.json_files import write_json
from rlhf.storage.markdown import cell, table

LEAST_COMMON = ("gold", "win_rate", "score", "accuracy", "loss")  # to rank stages with different objectives, in order
SHOWN = 4
HARMLESS = re.compile(r"[\w.=+,/:\-\[\] ±–β]*")  # safe in a Markdown table without escapes


class Spread(NamedTuple):
    """A metric over the seeds of a configuration; ``deviation`` is the sample standard deviation, None for one run."""

    mean: float
    deviation: float | None
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.deviation is None else f"{self.mean:.3f} ±{self.deviation:.3f}"


@dataclass
class Row:
    """A configuration: ``jobs`` that differ only in their seed, and their metrics."""

    stage: str
    knobs: dict[str, str]
    jobs: list[Job]
    values: dict[str, Spread] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The stage and the settings, for example ``dpo stage.beta=0.1``."""
        return " ".join([self.stage, *(f"{key}={value}" for key, value in self.knobs.items())])


@dataclass
class Leaderboard:
    """Ranked configurations: ``rows``, best first, by the metrics of ``objective``; ``jobs`` also has failed ones."""

    objective: list[str]
    rows: list[Row]
    jobs: list[Job]

    @property
    def failed(self) -> list[Job]:
        """The jobs that did not finish."""
        return [job for job in self.jobs if job.status != FINISHED]

    @property
    def keys(self) -> list[str]:
        """The settings that vary in any row."""
        return list(dict.fromkeys(key for row in self.rows for key in row.knobs))

    @property
    def metrics(self) -> list[str]:
        """The metrics that any row has, the objective first."""
        found = [name for name in METRICS if any(name in row.values for row in self.rows)]
        return [*(name for name in self.objective if name in found), *(n for n in found if n not in self.objective)]

    @property
    def shown(self) -> list[str]:
        """The metrics for the terminal: up to `SHOWN` that all rows have."""
        return [name for name in self.metrics if all(name in row.values for row in self.rows)][:SHOWN]

    @property
    def best(self) -> Job | None:
        """The run of the first row that is best by the first objective."""
        if not self.rows:
            return None
        name = self.objective[0]
        better = max if METRICS[name].direction == "maximize" else min
        return better(self.rows[0].jobs, key=lambda job: values_of([job], name))


def value_of(job: Job, name: str) -> float | None:
    """Return a metric of a job by its name in `METRICS`; None if the job lacks it."""
    return job.metrics.get(METRICS[name].keys.get(job.stage, name))


def values_of(jobs: Sequence[Job], name: str) -> list[float]:
    """Return a metric of the jobs that have it."""
    return [value for job in jobs if (value := value_of(job, name)) is not None]


def board(jobs: Sequence[Job], objective: str | list[str] | None) -> Leaderboard:
    """Rank the configurations of ``jobs``.

    With several objectives, the Pareto-optimal ones come first; ties are ordered by the first objective.

    Raises:
        LineageError: the finished jobs have no metric in common, or one of them lacks the objective.
    """
    done = [job for job in jobs if job.status == FINISHED and job.stage in USUAL]
    names = ranked_by(done, objective)
    rows = [Row(same[0].stage, knobs, same) for knobs, same in configurations(done)]
    for row in rows:
        for name in METRICS:
            found = values_of(row.jobs, name)
            if len(found) == len(row.jobs):
                deviation = statistics.stdev(found) if len(found) > 1 else None
                row.values[name] = Spread(statistics.fmean(found), deviation, len(found))
    for name in names:
        for row in rows:
            if name not in row.values:
                place = row.jobs[0].directory
                raise LineageError(f"objective={name} was not measured by {place}: set one that every run has")
    directions = [METRICS[name].direction for name in names]
    points = [[row.values[name].mean for name in names] for row in rows]
    front = efficient(points, directions) if len(names) > 1 else [True] * len(rows)
    sign = -1 if directions[:1] == ["maximize"] else 1
    order = sorted(range(len(rows)), key=lambda i: (not front[i], sign * points[i][0]))
    return Leaderboard(names, [rows[i] for i in order], list(jobs))


def ranked_by(done: Sequence[Job], objective: str | list[str] | None) -> list[str]:
    """Return the names of the objective; by default the stage's usual one, or one that all stages have in common."""
    if objective is not None:
        stage = done[0].stage if done else "sweep"
        return objectives.names(objective, stage)
    stages = {job.stage for job in done}
    if len(stages) <= 1:
        return [USUAL[stage] for stage in stages]
    for name in LEAST_COMMON:
        if all(value_of(job, name) is not None for job in done):
            return [name]
    raise LineageError(f"no metric is common to runs of {', '.join(sorted(stages))}: make one leaderboard per stage")


def configurations(jobs: Sequence[Job]) -> Iterator[tuple[dict[str, str], list[Job]]]:
    """Yield the varying settings of each configuration with its jobs, which differ only in their seed.

    If jobs of two sweeps have the same swept settings but differ in others, these are included.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        rest = {key: value for key, value in job.content.items() if key != "seed"}
        groups.setdefault(digest({"stage": job.stage, "content": rest, "knobs": job.knobs}), []).append(job)
    same: dict[str, list[list[Job]]] = {}
    for group in groups.values():
        same.setdefault(digest({"stage": group[0].stage, "knobs": group[0].knobs}), []).append(group)
    for alike in same.values():
        contents = [group[0].content for group in alike]
        known = dict.fromkeys(key for content in contents for key in content if key != "seed")
        differing = [key for key in known if len({str(content.get(key)) for content in contents}) > 1]
        for group in alike:
            more = {key: str(group[0].content.get(key))[:12] for key in differing if key not in group[0].swept}
            yield group[0].knobs | more, group


def headings(found: Leaderboard, metrics: Sequence[str]) -> list[str]:
    """Return the headings of the table; a setting is named by the last part of its key if that is unique."""
    stages = ["stage"] if len({row.stage for row in found.rows}) > 1 else []
    lasts = [key.rpartition(".")[2] for key in found.keys]
    keys = [last if lasts.count(last) == 1 else key for key, last in zip(found.keys, lasts, strict=True)]
    return [*stages, *keys, "runs", *(METRICS[name].told for name in metrics)]


def cells(found: Leaderboard, row: Row, metrics: Sequence[str]) -> list[str]:
    """Return the cells of a row under `headings`."""
    stages = [row.stage] if headings(found, metrics)[0] == "stage" else []
    knobs = [row.knobs.get(key, "–") for key in found.keys]
    values = [str(row.values[name]) if name in row.values else "–" for name in metrics]
    return [*stages, *knobs, str(len(row.jobs)), *values]


def caption(found: Leaderboard) -> str:
    """Return a sentence on the ranking."""
    if not found.rows:
        return "No job has finished."
    ways = {"maximize": "the higher the better", "minimize": "the lower the better"}
    order = "; then ".join(f"{METRICS[name].told}, {ways[METRICS[name].direction]}" for name in found.objective)
    several = "configurations that no other one dominates come first; " if len(found.objective) > 1 else ""
    return f"Ranked by {order}; {several}± is the standard deviation over seeds.{_temperature(found)}"


def _temperature(found: Leaderboard) -> str:
    """Return a sentence on the sampling temperature, which the KL depends on; empty if no row has a KL."""
    jobs = [job for row in found.rows for job in row.jobs if "kl" in row.values]
    known = sorted({value for job in jobs if (value := job.content.get("eval_set.temperature")) is not None})
    return f" KL is measured on samples at temperature {', '.join(f'{value:g}' for value in known)}." if known else ""


def publishing(found: Leaderboard) -> str | None:
    """Return the command that publishes the best run; None if no job finished."""
    best = found.best
    return None if best is None else command("publish", [setting("stage.run", str(best.directory))])


def reason(job: Job) -> str:
    """Return a line on why a job did not finish."""
    return f"{job.directory}: {' '.join(str(job.reason).split())}"


def show(found: Leaderboard, folder: Path) -> None:
    """Print the table, the jobs that did not finish and the command that publishes the best run."""
    if found.rows:
        table, names = Table(title="leaderboard", title_justify="left"), headings(found, found.shown)
        for place, heading in enumerate(names):
            numeric = place >= len(names) - len(found.shown) - 1
            table.add_column(Text(heading), justify="right" if numeric else "left")
        for row in found.rows:
            table.add_row(*map(Text, cells(found, row, found.shown)))
        console.print(table)
    console.print(Text(caption(found)), style="dim", soft_wrap=True)
    for job in found.failed:
        console.print(Text(f"{'failed' if job.status == FAILED else 'not finished'}: {reason(job)}"), soft_wrap=True)
    console.print(Text(f"The leaderboard and its figures: {folder}"), soft_wrap=True)
    if (best := publishing(found)) is not None:
        console.print(Text(f"The best: {best}"), style="bold", soft_wrap=True)


def write(found: Leaderboard, folder: Path, figures: Sequence[tuple[str, str, str]]) -> None:
    """Write leaderboard.md, .csv and .json; ``figures`` holds name, title and caption of each file in figures/."""
    lines = ["# Leaderboard\n", caption(found), "", *markdown(found)]
    if found.failed:
        lines += ["\n## Not finished\n", *(f"- {safe(reason(job))}" for job in found.failed)]
    for name, title, text in figures:
        lines += [f"\n## {title}\n", f"![{title}](figures/{name}.svg)\n", safe(text)]
    if (best := publishing(found)) is not None:
        lines += ["\n## The best\n", f"```bash\n{best}\n```"]
    (folder / "leaderboard.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with (folder / "leaderboard.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        names = found.metrics
        rows.writerow(["stage", *found.keys, "seed", "status", *names, "directory", "reason"])
        for job in found.jobs:
            knobs = next((row.knobs for row in found.rows if job in row.jobs), job.knobs)
            measured = ["" if (value := value_of(job, name)) is None else value for name in names]
            settings = [knobs.get(key, "") for key in found.keys]
            rows.writerow([job.stage, *settings, job.seed, job.status, *measured, job.directory, job.reason or ""])
    write_json(folder / "leaderboard.json", as_json(found))


def markdown(found: Leaderboard) -> Iterator[str]:
    """Yield the lines of the table as Markdown; none without rows."""
    if found.rows:
        rows = (cells(found, row, found.metrics) for row in found.rows)
        yield from table(headings(found, found.metrics), rows, safe)


def safe(text: str) -> str:
    """Return text unchanged if it is `HARMLESS`, so that settings stay readable in the file, else escaped."""
    return text if HARMLESS.fullmatch(text) else cell(text)


def as_json(found: Leaderboard) -> dict:
    """Return the content of leaderboard.json."""
    return {
        "objective": {name: METRICS[name].direction for name in found.objective},
        "rows": [
            {
                "stage": row.stage,
                "settings": row.knobs,
                "seeds": [job.seed for job in row.jobs],
                "runs": [str(job.directory) for job in row.jobs],
                "metrics": {name: spread._asdict() for name, spread in row.values.items()},
            }
            for row in found.rows
        ],
        "unfinished": [
            {"directory": str(job.directory), "status": job.status, "reason": job.reason, "swept": dict(job.swept)}
            for job in found.failed
        ],
        "best": str(found.best.directory) if found.best else None,
        "publish": publishing(found),
    }
