"""The embedded progression over several seeds: does every seed show base < SFT < DPO and base < SFT < PPO?

    python -m benchmarks.progression --seeds 1 2 3 4 5
    python -m benchmarks.progression --show                # print the last results

Each seed is one `python -m rlhf stage=progression` in a separate process; stages that are up to date are not run again.
Then the comparison of the first seed is repeated with those of the other seeds, for the table over seeds. Prints one
row per seed, mean and standard deviation; writes benchmarks/progression.json, two figures of the report into
docs/figures, and the table over seeds into docs/results.md, between the lines that mark its place.
"""

import argparse
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path

from benchmarks.table import place
from rlhf.storage import markdown

STAGES = ("base", "sft", "dpo", "ppo")
RESULT = Path(__file__).with_suffix(".json")
FIGURES = Path(__file__).parents[1] / "docs" / "figures"
PAGE = Path(__file__).parents[1] / "docs" / "results.md"
SHOWN = ("frontier", "scores")  # figures of the report in the documentation
PLACE = "<!-- table over seeds -->"


def run_seed(seed: int, overrides: list[str]) -> dict:
    """Run one progression; its time is the sum over its stages, without the start of Python."""
    name = f"benchmark/seed-{seed}"
    command = [sys.executable, "-m", "rlhf", "stage=progression", f"name={name}", f"seed={seed}", *overrides]
    subprocess.run(command, check=True)
    found = read(Path("checkpoints", name))
    return found | {"seed": seed, "seconds": round(sum(found["stage_seconds"].values()), 1)}


def compare_seeds(seed: int, overrides: list[str]) -> Path:
    """Repeat the comparison of one seed with those of the other seeds and return its directory."""
    name = f"benchmark/seed-{seed}"
    seeds = f"stage.seeds={Path('checkpoints', 'benchmark', 'seed-*', 'compare')}"
    command = [sys.executable, "-m", "rlhf", "stage=compare", f"name={name}", f"seed={seed}", "overwrite=true", seeds]
    subprocess.run([*command, *overrides], check=True)
    return Path("checkpoints", name, "compare")


def publish(compared: Path) -> list[str]:
    """Copy the figures in SHOWN, write the table over seeds into docs/results.md, and return its lines."""
    FIGURES.mkdir(exist_ok=True)
    for name in SHOWN:
        shutil.copyfile(compared / "figures" / f"{name}.svg", FIGURES / f"{name}.svg")
    text = (compared / "report.md").read_text(encoding="utf-8")
    found = re.search(r"^## Over seeds .*?\n\n(.*?)\n(?=\n## )", text, re.DOTALL | re.MULTILINE)
    lines = found.group(1).splitlines() if found else []
    place(PAGE, PLACE, lines)
    return lines


def read(root: Path) -> dict:
    """Return the measurements of a finished chain."""
    manifests = {stage: json.loads((root / stage / "run.json").read_text()) for stage in (*STAGES, "reward", "compare")}
    models = json.loads((root / "compare" / "metrics.json").read_text())
    reward = manifests["reward"]["metrics"]
    return {
        "gold": {stage: models["models"][stage]["gold"]["mean"] for stage in STAGES},
        "win_rate": {stage: models["models"][stage]["win_rate/gold"]["mean"] for stage in ("dpo", "ppo")},
        "kl": {stage: models["models"][stage]["kl"]["mean"] for stage in ("dpo", "ppo")},
        "reward_accuracy": reward["test/accuracy"],
        "ceiling": reward["test/ceiling"],
        "ceiling_realized": reward.get("test/ceiling_realized", reward.get("test/ceiling_realised")),  # the former name
        "questions": models["questions"],
        "stage_seconds": {stage: manifest["seconds"] for stage, manifest in manifests.items()},
        "peak_memory_gib": max(manifest["peak_memory_gib"] for manifest in manifests.values()),
        "weights": {stage: manifests[stage]["weights"] for stage in (*STAGES, "reward")},
    }


def checks(row: dict) -> dict[str, bool]:
    """Return the conditions that every seed should meet."""
    gold, wins = row["gold"], row["win_rate"]
    return {
        "base < SFT < DPO": gold["base"] < gold["sft"] < gold["dpo"],
        "base < SFT < PPO": gold["base"] < gold["sft"] < gold["ppo"],
        "DPO wins at least 0.65": wins["dpo"] >= 0.65,
        "PPO wins at least 0.65": wins["ppo"] >= 0.65,
        "reward model within 0.03 of the ceiling": row["reward_accuracy"] >= row["ceiling"] - 0.03,
    }


def table(rows: list[dict]) -> list[str]:
    """Return a Markdown table with a row per seed, mean and standard deviation."""
    heading = ["seed", *(f"gold {stage}" for stage in STAGES), "DPO wins", "PPO wins", "RM acc", "ceiling", "seconds"]
    lines = [
        [
            row["seed"],
            *(row["gold"][stage] for stage in STAGES),
            row["win_rate"]["dpo"],
            row["win_rate"]["ppo"],
            row["reward_accuracy"],
            row["ceiling"],
            row["seconds"],
        ]
        for row in rows
    ]
    drawn = [[_cell(value) for value in line] for line in lines]
    if len(lines) > 1:
        columns = [[value for value in column if value is not None] for column in zip(*lines, strict=True)]
        for title, measure in {"mean": statistics.fmean, "sd": statistics.stdev}.items():
            cells = [_cell(measure(column)) if len(column) > 1 else "–" for column in columns[1:]]
            drawn.append([title, *cells])
    return list(markdown.table(heading, drawn, str))


def show(rows: list[dict]) -> None:
    print("\n".join(table(rows)))
    for name in checks(rows[0]):
        print(f"{name}: {sum(checks(row)[name] for row in rows)} of {len(rows)}")
    for row in rows:
        for text, answers in row["questions"].items():
            print(f"\nseed {row['seed']}: {text}")
            for stage, answer in answers.items():
                print(f"  {stage}: {answer!r}")


def _cell(value: float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if value < 10 else f"{value:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("overrides", nargs="*", help="settings for every run, e.g. hardware=cpu")
    parser.add_argument("--comparison", nargs="*", default=[], help="settings for the last comparison")
    parser.add_argument("--show", action="store_true", help="print the stored results and run nothing")
    arguments = parser.parse_args()
    if arguments.show:
        return show(json.loads(RESULT.read_text())["seeds"])
    rows = [run_seed(seed, arguments.overrides) for seed in arguments.seeds]
    shared = [item for item in arguments.overrides if not item.startswith("stage.")]
    published = publish(compare_seeds(arguments.seeds[0], [*shared, *arguments.comparison]))
    show(rows)
    unit = 1 if sys.platform == "darwin" else 1024
    machine = {
        "date": date.today().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 2**30, 2),
    }
    command = "python -m benchmarks.progression " + " ".join(sys.argv[1:])
    result = {"command": command.strip(), "machine": machine, "seeds": rows, "published": published}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
