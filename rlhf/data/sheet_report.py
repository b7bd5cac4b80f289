"""The data sheet for people: report.md, and the same in a terminal."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from rich.table import Table as Grid
from rich.text import Text

from rlhf.console import console, plural, printable
from rlhf.data.singles import SIDES
from rlhf.data.tokens import BROKEN
from rlhf.storage.markdown import table

BAR = 20  # characters of the longest bar of a histogram
NAMES = 30  # characters of the widest name in a terminal
LONGEST = 1500  # characters of an example in the report
RULE = (
    "Longer than {max_length} tokens: stage=sft and stage=dpo cut the end, and leave out a row whose prompt alone "
    "fills them; stage=reward leaves out the pair; stage=ppo keeps the end of a prompt. All are counted in run.json."
)


def facts(sheet: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the facts about one split, as name and value."""
    rows, layouts = sheet["rows"], sheet["layouts"]

    def of(count: int) -> str:
        return _share(count, rows)

    found = [
        ("rows", f"{rows:,}" + (f" from {sheet['read']:,} read" if sheet["read"] != rows else "")),
        ("layout", ", ".join(f"{name} {n:,}" if len(layouts) > 1 else name for name, n in layouts.items())),
        *((f"{origin}, for stage=kto", _sides(counts)) for origin, counts in sheet["singles"].items()),
        *((f"left out: {reason.removeprefix('with ')}", f"{n:,}") for reason, n in sheet["left_out"].items()),
        *([("first row that cannot be read", sheet["problem"])] if sheet["problem"] else []),
        *((f"kept, with {what}", f"{n:,}") for what, n in sheet["oddities"].items()),
        ("distinct prompts", f"{sheet['prompts']:,}"),
        ("exact duplicates", of(sheet["duplicates"])),
        ("near duplicates", _near(sheet["near_duplicates"])),
    ]
    if sheet["longer"] is not None:
        found += [
            ("chosen = rejected", of(sheet["identical"])),
            ("contradicting pairs", of(sheet["contradicting"])),
            ("the longer response wins", f"{sheet['longer']:.3f}"),
        ]
    found += [(f"empty {name}", of(n)) for name, n in sheet["empty"].items()]
    found += [(f"{name} looks cut off", of(n)) for name, n in sheet["truncated"].items()]
    if "max_length" in sheet:
        found.append(("special tokens in the text", of(sheet["special"])))
        if "text" not in sheet["lengths"]:  # plain text is joined and cut into blocks, whatever its length
            found += [
                (f"longer than {sheet['max_length']:,} tokens", of(sheet["longer_rows"])),
                ("prompt alone already too long", of(sheet["filled"])),
                (BROKEN, of(sheet["broken"])),
            ]
    if sheet["unread"]:
        found.append(("columns not read", printable(", ".join(sheet["unread"]))))
    if sheet["counted_by"]:
        found.append(("tokens of", sheet["counted_by"]))
    found.append(("languages", _languages(sheet["languages"])))
    if sheet["sources"]:
        found.append(("sources", ", ".join(f"{name} {n:,}" for name, n in list(sheet["sources"].items())[:12])))
    return found


def _sides(counts: dict[str, Any]) -> str:
    limit = f" (desirable from their mean {counts['from']:.4g} on)" if "from" in counts else ""
    return ", ".join(f"{counts[name]:,} {name}" for name in SIDES) + limit


def _share(count: int, rows: int) -> str:
    return f"{count:,} ({count / rows:.1%})" if count else "0"


def _near(found: dict[str, Any] | str | None) -> str:
    if not isinstance(found, dict):
        return found or "not looked for"
    return f"{_share(found['count'], found['rows'])} of {found['rows']:,} rows looked at"


def _languages(found: dict[str, Any] | str | None) -> str:
    if not isinstance(found, dict):
        return found or "not looked for"
    shares = [f"{name} {n / found['rows']:.1%}" for name, n in list(found["counts"].items())[:6]]
    return ", ".join(shares) + f" of {found['rows']:,} rows looked at"


def histogram(lengths: dict[str, Any]) -> list[str]:
    """Return one line per bin: its upper bound, its count and a bar."""
    bins = lengths["histogram"]
    most = max(bins.values())
    return [f"{'< ' + bound:>8} {n:>8,} {'█' * round(BAR * n / most)}".rstrip() for bound, n in bins.items()]


def markdown(report: dict[str, Any]) -> str:
    """Return report.md."""
    lines = ["# Data sheet", "", *(f"{note}\n" for note in report["notes"])]
    for one in report["sheets"]:
        sheet = one["sheet"]
        lines += [f"## {one['kind']}: {one['path']} ({one['split']})", "", *tables(sheet, facts(sheet))]
        for name, found in sheet["lengths"].items():
            lines += ["", f"{name}:", "", "```", *histogram(found), "```"]
        lines += _examples(one["examples"])
        lines.append("")
    if any("max_length" in one["sheet"] for one in report["sheets"]):
        longest = next(one["sheet"]["max_length"] for one in report["sheets"] if "max_length" in one["sheet"])
        lines += [RULE.format(max_length=f"{longest:,}"), ""]
    return "\n".join([*lines, *_leaks(report["leaks"])])


def tables(sheet: dict[str, Any], facts: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield a table of the facts and one of the lengths, as lines of Markdown."""
    yield from (*table(["", ""], facts), "")
    yield from table([f"length in {sheet['unit']}", "median", "mean", "95 %", "max"], (
        [name, f"{n['median']:,}", f"{n['mean']:,.1f}", f"{n['p95']:,}", f"{n['max']:,}"]
        for name, n in sheet["lengths"].items()
    ))  # fmt: skip


def _leaks(leaks: list[dict[str, Any]]) -> list[str]:
    if not leaks:
        return []
    rows = [(one["train"], one["held_out"], f"{one['count']:,}", f"{one['share']:.1%}") for one in leaks]
    headings = ["trained on", "held out", "rows", "share"]
    return ["## Prompts of training that held-out rows have too", "", *table(headings, rows), ""]


def _examples(examples: list[dict[str, str]]) -> list[str]:
    """Return rows as Markdown. They are data: in fences longer than any in them, without control characters."""
    drawn = plural(len(examples), "row")
    lines = [] if not examples else ["", f"{drawn}, drawn at random, as the model will see them:"]
    for example in examples:
        text = "\n".join(f"[{name}]\n{printable(value, LONGEST)}" for name, value in example.items())
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        lines += ["", f"{fence}text", text, fence]
    return lines


def show(report: dict[str, Any]) -> None:
    """Print the sheets, the leaks, and two examples of each split; report.md has all examples."""
    for note in report["notes"]:
        console.print(Text(note, style="dim"))
    for one in report["sheets"]:
        sheet = one["sheet"]
        grid = Grid(
            title=Text(f"{one['kind']}: {one['path']} ({one['split']})"), title_justify="left", show_header=False
        )
        grid.add_column(style="bold", max_width=NAMES, overflow="fold")  # so that a histogram fits into 80 columns
        grid.add_column(overflow="fold")
        for name, value in facts(sheet):
            grid.add_row(Text(name), Text(value))
        for name, found in sheet["lengths"].items():
            line = f"median {found['median']:,}, mean {found['mean']:,.1f}, 95 % {found['p95']:,}, max {found['max']:,}"
            grid.add_row(Text(f"{sheet['unit']} of {name}"), Text("\n".join([line, *histogram(found)])))
        for example in one["examples"][:2]:
            for name, text in example.items():
                grid.add_row(Text(f"example: {name}", style="dim"), Text(printable(text), style="dim"))
        console.print(grid)
    leaks = [one for one in report["leaks"] if one["count"]]
    for one in leaks:
        share = f"{plural(one['count'], 'row')} ({one['share']:.1%})"
        line = f"leak: {share} of {one['held_out']} with a prompt of {one['train']}"
        console.print(Text(line, style="bold red"))
    if report["leaks"] and not leaks:
        console.print("No overlap between train and held-out prompts.")
