"""The table of speed and memory in README.md beside this file, from what the benchmarks wrote.

python -m benchmarks.table
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE / "README.md"
BEGIN, END = "<!-- speed and memory -->", "<!-- end -->"
MEASURED = ("dpo", "reward", "ppo", "rollout", "startup")
HEADINGS = "| work | against | times faster | spread | aim | memory | samples/s | tokens/s | MiB | matrix peak used |"


def lines(folder: Path) -> Iterator[str]:
    """A table for each benchmark that was measured, under its command, date and machine."""
    for name in MEASURED:
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
        machine = f"{found['machine']['cpu']}, {found['machine']['cores']} cores, Python {found['machine']['python']}"
        yield from (f"`{found['command']}`, {found['date']}, {machine}, {versions}:", "")
        if name == "startup":
            yield "| from the command to | against | times faster | spread | seconds, ours / theirs |"
            yield "| --- | --- | --- | --- | --- |"
        else:
            yield HEADINGS
            yield "| " + " | ".join(["---"] * (HEADINGS.count("|") - 1)) + " |"
        yield from (started(row) if name == "startup" else measured(row) for row in found["rows"])
        yield ""


def started(row: dict[str, Any]) -> str:
    ours, theirs = row["sides"].values()
    least, most = row["spread"]
    return (
        f"| {row['work']} | {row['against']} | {row['ratio']} | {least} to {most} | {ours['cpu']} / {theirs['cpu']} |"
    )


def measured(row: dict[str, Any]) -> str:
    """Ours and the peer's side by side where there are two numbers."""
    both = list(row["sides"].values())

    def pair(key: str, form: str) -> str:
        return " / ".join("" if side[key] is None else format(side[key], form) for side in both)

    least, most = row["spread"]
    cells = [row["work"], row["against"], str(row["ratio"]), f"{least} to {most}"]
    cells += ["" if row["target"] is None else str(row["target"]), str(row["memory_ratio"])]
    cells += [pair("samples_per_cpu_second", ".3g"), pair("tokens_per_cpu_second", ",.0f"), pair("peak_mib", ",.0f")]
    return "| " + " | ".join([*cells, pair("utilisation", ".0%")]) + " |"


def main() -> None:
    text = README.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(BEGIN)[1].split(END, 1)[1]
    README.write_text("\n".join([before + BEGIN, "", *lines(HERE), END]) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
