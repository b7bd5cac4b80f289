"""Write the tables of speed and memory in docs/results.md from the benchmarks' files.

python -m benchmarks.table
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rlhf.storage import markdown

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "results.md"
BEGIN, SHARES, END = "<!-- speed and memory -->", "<!-- shares -->", "<!-- end -->"
MEASURED = ("dpo", "kto", "reward", "ppo", "ppo_ways", "rollout", "scoring", "startup")
HEADINGS = (
    "work", "against", "times faster", "spread", "aim", "memory", "samples/s", "tokens/s", "MiB", "matrix peak used"
)  # fmt: skip
STARTED = ("from the command to", "against", "times faster", "spread", "seconds, ours / theirs")


def lines(folder: Path) -> Iterator[str]:
    """Yield a table for each measured benchmark, under its command, date and machine."""
    for name in MEASURED:
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        yield from (made(found), "")
        headings, cells = (STARTED, started) if name == "startup" else (HEADINGS, measured)
        yield from markdown.table(headings, map(cells, found["rows"]), str)
        yield ""


def made(found: dict[str, Any]) -> str:
    """Return command, date, machine and versions."""
    versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
    machine = f"{found['machine']['cpu']}, {found['machine']['cores']} cores, Python {found['machine']['python']}"
    return f"`{found['command']}`, {found['date']}, {machine}, {versions}:"


def shares(folder: Path) -> Iterator[str]:
    """Yield the table of the time of a PPO iteration by phase and by kind of operator."""
    for path in sorted(folder.glob("ppo_profile*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        phases, kinds = found["rows"][0]["phases"], found["rows"][0]["kinds"]
        columns = ["work", "CPU seconds", "lower bound", *phases, *kinds, "products, of the matrix peak"]
        lines = []
        for row in found["rows"]:
            parts = [row["phases"][name] for name in phases] + [row["kinds"].get(name, 0) for name in kinds]
            numbers = [format(one, ".0%") for one in (*parts, row["products_of_peak"])]
            lines.append([row["work"], row["cpu_seconds"], row["the_least"], *numbers])
        yield from (made(found), "", *markdown.table(columns, lines, str), "")


def started(row: dict[str, Any]) -> list[Any]:
    ours, theirs = row["sides"].values()
    least, most = row["spread"]
    return [row["work"], row["against"], row["ratio"], f"{least} to {most}", f"{ours['cpu']} / {theirs['cpu']}"]


def measured(row: dict[str, Any]) -> list[str]:
    """Return a row of the table; cells with two numbers are ours and the peer's."""
    both = list(row["sides"].values())

    def pair(key: str, form: str) -> str:
        if all(side[key] is None for side in both):
            return ""
        return " / ".join("" if side[key] is None else format(side[key], form) for side in both)

    least, most = row["spread"]
    cells = [row["work"], row["against"], str(row["ratio"]), f"{least} to {most}"]
    cells += ["" if row["target"] is None else str(row["target"]), str(row["memory_ratio"])]
    cells += [pair("samples_per_cpu_second", ".3g"), pair("tokens_per_cpu_second", ",.0f"), pair("peak_mib", ",.0f")]
    return [*cells, pair("utilization", ".0%")]


def place(page: Path, begin: str, found: Iterable[str]) -> None:
    """Write lines into a page, between the mark ``begin`` and the next `END`."""
    before, after = page.read_text(encoding="utf-8").split(begin, 1)
    page.write_text("\n".join([before + begin, *found, END]) + after.split(END, 1)[1], encoding="utf-8")


def main() -> None:
    for begin, found in ((BEGIN, lines(HERE)), (SHARES, shares(HERE))):
        place(PAGE, begin, ["", *found])


if __name__ == "__main__":
    main()
