"""Length bias of reward models on real preferences: the recipe against options that reduce it, over seeds.

    RLHF_TEST_MODELS=... RLHF_TEST_DATA=... python -m benchmarks.reward_style --seeds 0 1 2
    python -m benchmarks.reward_style --show               # print the last results

For each set, option and seed, a model of 15 million parameters with a score head is trained on the same rows for as
many epochs (stage=reward) and tested on a held-out tenth of the prompts. Finished runs are only read. Adds the rows to
benchmarks/reward_style.json.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import stored
from benchmarks.reward_card import MODEL, SETS, SHARED, TRAINING, Set, split
from rlhf.storage import markdown

RESULT = Path(__file__).with_suffix(".json")
CHECKPOINTS = Path("checkpoints")
FOLDER = CHECKPOINTS / "style"
OPTIONS = {
    "default": [],
    "residual head": ["stage.residual=[length]"],
    "balanced lengths": ["stage.balance_lengths=10"],
    "mirrored negatives": ["stage.negatives={mirrored: 1.0}"],
}
LIKE = next(one for one in SETS if one.name == "harmless").training
MEASURED = {one.name: one for one in SETS if one.name != "persona"} | {
    "alpaca": Set("alpaca", "alpaca_eval_gpt4.jsonl.gz", "GPT-4's choices between two answers", None, LIKE),
    # Posts have 383 tokens in the median; the model reads 256.
    "tldr": Set(
        "tldr",
        "tldr_policy_vs_human.jsonl.gz",
        "GPT-3.5's choices between two summaries",
        None,
        LIKE,
        (550, " ...\n\nTL;DR:"),
    ),
}
LIMIT = 1500  # training rows of each set
MORE = ["stage.probe_rows=0", "stage.sample_prompts=0", f"data.preferences.limit={LIMIT}"]


def train(name: str, option: str, seed: int) -> Path:
    """Train a reward model, if it is not finished, and return its directory."""
    home, data = FOLDER / name, FOLDER / name / "data"
    if not data.exists():
        split(MEASURED[name], Path(os.environ.get("RLHF_TEST_DATA", "real_data")), data)
    place = home / option.replace(" ", "-") / f"seed-{seed}"
    if not (place / "reward" / "run.json").exists():
        own = ["stage=reward", "stage.policy=${model.path}", f"data.path={data}", *SHARED, *MODEL, *TRAINING, *MORE]
        own += [*MEASURED[name].training, *OPTIONS[option], f"name={place.relative_to(CHECKPOINTS)}", f"seed={seed}"]
        subprocess.run([sys.executable, "-m", "rlhf", *own, "resume=true"], check=True)
    return place / "reward"


def measure(name: str, option: str, seed: int) -> dict[str, Any]:
    """Measure a reward model: accuracy, also at equal style and on the pairs of the extreme length differences."""
    place = train(name, option, seed)
    card = json.loads((place / "metrics.json").read_text(encoding="utf-8"))
    metrics = json.loads((place / "run.json").read_text(encoding="utf-8"))["metrics"]
    by_length = [part["mean"] for part in card["parts"]["length difference"].values()]
    return {
        "set": name, "option": option, "seed": seed, "pairs": card["pairs"], "steps": metrics["steps"],
        "accuracy": metrics["test/accuracy"], "equal style": card["style"]["accuracy at equal style"]["mean"],
        "spearman": metrics["test/spearman_length"], "shortest": by_length[0], "longest": by_length[-1],
    }  # fmt: skip


def table(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Return a Markdown table: means over seeds with half of the 95 % interval."""
    from rlhf.evaluation.sweeps.ladder import interval

    by: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        by.setdefault((row["set"], row["option"]), []).append(row)
    numbers = {
        "accuracy": "accuracy", "equal style": "accuracy at equal style", "spearman": "Spearman of score and length",
        "shortest": "chosen much shorter", "longest": "chosen much longer",
    }  # fmt: skip
    lines = [
        [*key, len(of), of[0]["pairs"], *(interval([row[number] for row in of]) for number in numbers)]
        for key, of in by.items()
    ]
    return list(markdown.table(["set", "option", "seeds", "test pairs", *numbers.values()], lines, str))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sets", nargs="+", choices=list(MEASURED), default=list(MEASURED))
    parser.add_argument("--options", nargs="+", choices=list(OPTIONS), default=list(OPTIONS))
    parser.add_argument("--show", action="store_true", help="print the stored results and run nothing")
    arguments = parser.parse_args()
    if not arguments.show:
        order = [(name, option, seed) for name in arguments.sets for seed in arguments.seeds
                 for option in arguments.options]  # fmt: skip
        stored.add(RESULT, [measure(*one) for one in order], ("set", "option", "seed"), "benchmarks.reward_style")
    print("\n".join(table(json.loads(RESULT.read_text(encoding="utf-8"))["rows"])))


if __name__ == "__main__":
    main()
