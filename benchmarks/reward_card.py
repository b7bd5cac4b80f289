"""Reward models on real preference sets: do they beat the longer response, a bag of words and the policy?

    RLHF_TEST_MODELS=... RLHF_TEST_DATA=... python -m benchmarks.reward_card
    python -m benchmarks.reward_card --show                # print the last results

For each set, a model of 15 million parameters with a score head is trained in full (stage=reward), then evaluated on a
held-out tenth of the prompts (stage=evaluate_reward). Finished runs are only read. Writes benchmarks/reward_card.json
and a readable benchmarks/reward_card.md.
"""

import argparse
import gzip
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from rlhf.data.rows import prompt_key, unit_hash
from rlhf.storage import markdown

RESULT = Path(__file__).with_suffix(".json")
ROOT = Path("checkpoints/benchmark/reward-card")
HELD_OUT = 0.1  # share of the prompts, for validation and for test each
SHARED = ["experiment=none", "data=local", "hardware=cpu"]


@dataclass(frozen=True)
class Set:
    """A file of preference pairs in preference/ and the training settings of its reward model, found by trial."""

    name: str
    file: str
    says: str
    source: str | None  # the column by which accuracy is split
    training: tuple[str, ...]
    cut: tuple[int, str] | None = None  # characters kept of each prompt, and the end of a prompt that is cut


SETS = (
    Set(
        "persona",
        "persona_yes_no.jsonl.gz",
        "answers of one word to statements of twelve personas, written and labeled by a model (Perez et al. 2022)",
        "persona",
        ("stage.trainer.max_length=128", "stage.trainer.learning_rate=2e-4", "stage.sample_length=16"),
    ),
    Set(
        "harmless",
        "hh_rlhf_harmless.jsonl.gz",
        "crowd workers' choices between two replies in a dialogue (Bai et al. 2022)",
        None,
        ("stage.trainer.max_length=256", "stage.trainer.learning_rate=1e-4", "stage.sample_length=32"),
    ),
)
TRAINING = (
    "stage.trainer.per_device_train_batch_size=16",
    "stage.trainer.per_device_eval_batch_size=32",
    "stage.statistics_prompts=64",
)
MODEL = ("model=stories15m",)


def split(one: Set, data: Path, folder: Path) -> dict[str, int]:
    """Write the set as train, validation and test files that have no prompt in common; return their sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for row in read(data / "preference" / one.file):
        place = unit_hash(0, prompt_key(row))
        kept = {name: row[name] for name in ("prompt", "chosen", "rejected")}
        if one.cut and len(row["prompt"]) > one.cut[0]:
            kept["prompt"] = row["prompt"][: one.cut[0]] + one.cut[1]
        kept |= {"source": row[one.source]} if one.source else {}
        kept |= {"confidence": row["confidence"]} if "confidence" in row else {}
        name = "test" if place < HELD_OUT else "validation" if place < 2 * HELD_OUT else "train"
        rows[name].append(json.dumps(kept))
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return {name: len(lines) for name, lines in rows.items()}


def read(path: Path) -> Iterator[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def measure(one: Set, data: Path, overrides: list[str]) -> dict:
    """Train and evaluate the reward model of one set."""
    place = ROOT / one.name
    sizes = split(one, data, place / "data")
    shared = [f"name={ROOT.relative_to('checkpoints')}/{one.name}", f"data.path={place}/data", *SHARED, *MODEL]
    training = [*one.training, *TRAINING]
    judging = [item for item in training if not item.startswith("stage.trainer")]
    policy = "stage.policy=${model.path}"
    commands = {
        "reward": ["stage=reward", policy, *shared, *training],
        "evaluate_reward": ["stage=evaluate_reward", policy, f"stage.reward={place}/reward", *shared, *judging],
    }
    for stage, command in commands.items():
        if not (place / stage / "run.json").exists():
            subprocess.run([sys.executable, "-m", "rlhf", *command, *overrides], check=True)
    manifests = {stage: json.loads((place / stage / "run.json").read_text(encoding="utf-8")) for stage in commands}
    card = json.loads((place / "evaluate_reward" / "metrics.json").read_text(encoding="utf-8"))
    return {
        "set": one.name,
        "says": one.says,
        "rows": sizes,
        "left_out": manifests["reward"]["data"]["preferences"]["train"]["longer than max_length, left out"],
        "steps": manifests["reward"]["metrics"]["steps"],
        "commands": {stage: " ".join(["python -m rlhf", *command]) for stage, command in commands.items()},
        "card": card,
    }


def table(rows: list[dict]) -> list[str]:
    """Return a Markdown table with a row per set: accuracy of the reward model and of each baseline."""
    names = list(rows[0]["card"]["baselines"])
    drawn = []
    for row in rows:
        card = row["card"]
        cells = [row["set"], str(row["rows"]["train"]), str(card["pairs"]), _share(card["accuracy"])]
        cells += [_share(card["baselines"][name]["accuracy"]) for name in names]
        beaten = [name for name in names if card["baselines"][name]["beaten"]]
        cells.append("all" if len(beaten) == len(names) else ", ".join(beaten) or "none")
        drawn.append(cells)
    return list(markdown.table(["set", "train", "test", "reward model", *names, "beats"], drawn, str))


def _share(found: dict) -> str:
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def write(rows: list[dict], machine: dict, overrides: list[str]) -> None:
    command = " ".join(["python -m benchmarks.reward_card", *overrides])
    RESULT.write_text(json.dumps({"command": command, "machine": machine, "sets": rows}, indent=2) + "\n")
    figures = RESULT.with_suffix("")
    figures.mkdir(exist_ok=True)
    lines = [
        "# Reward models on real preference sets\n",
        f"{MODEL[0]}. `{command}`, {machine['date']}, {machine['processor']}.",
        "",
    ]
    lines += table(rows)
    for row in rows:
        report = ROOT / row["set"] / "evaluate_reward"
        for picture in ("accuracy", "reliability"):
            shutil.copy(report / "figures" / f"{picture}.png", figures / f"{row['set']}-{picture}.png")
        text = (report / "report.md").read_text(encoding="utf-8").partition("\n## Figures")[0]
        text = text.replace("\n## ", "\n### ").replace(
            "# Report card of", f"\n## {row['set']}: {row['says']}\n\nReward model:", 1
        )
        pictures = [f"![{name}]({figures.name}/{row['set']}-{name}.png)" for name in ("accuracy", "reliability")]
        lines += [text, *pictures]
    RESULT.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="settings for every run, e.g. hardware=cpu")
    parser.add_argument("--show", action="store_true", help="print the stored results and run nothing")
    arguments = parser.parse_args()
    if arguments.show:
        return print("\n".join(table(json.loads(RESULT.read_text(encoding="utf-8"))["sets"])))
    data = Path(os.environ.get("RLHF_TEST_DATA", "real_data"))
    rows = [measure(one, data, arguments.overrides) for one in SETS]
    print("\n".join(table(rows)))
    machine = {
        "date": date.today().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    write(rows, machine, arguments.overrides)


if __name__ == "__main__":
    main()
