"""Reward models trained with robust options: do they rank a base model below SFT, and does PPO on them gain more?

    python -m benchmarks.reward_robust --seeds 0 1 2 3 4           # ten minutes per seed and three variants on one core
    python -m benchmarks.reward_robust --seeds 0 --long            # also long PPO at a tenth of the KL coefficient
    python -m benchmarks.reward_robust --seeds 0 --no-ppo          # two minutes per variant: only its ranking
    python -m benchmarks.reward_robust --show                      # print the last results

For each seed of the embedded world, one base and one SFT run, then for each variant of stage=reward a reward model, PPO
on it with the recipe's settings, and a comparison of base, SFT and PPO on held-out prompts by this reward model and by
the gold reward. Finished runs are only read. Prints two tables; adds the rows to benchmarks/reward_robust.json.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import stored
from rlhf.storage import markdown

RESULT = Path(__file__).with_suffix(".json")
CHECKPOINTS = Path("checkpoints")
FOLDER = CHECKPOINTS / "robust"
SAMPLED = "sampled: 0.25"
VARIANTS = {
    "default": [],
    "sampled negatives": [f"stage.negatives={{{SAMPLED}}}"],
    "swapped negatives": ["stage.negatives={swapped: 0.1}"],
    "truncated and repeated": ["stage.negatives={truncated: 0.1, repeated: 0.1}"],
    "mirrored negatives": ["stage.negatives={mirrored: 1.0}"],
    "balanced lengths": ["stage.balance_lengths=10"],
    "residual head": ["stage.residual=[length]"],
    "batch sum to zero": ["stage.batch_sum=0.001"],
    "all options": [
        f"stage.negatives={{{SAMPLED}, swapped: 0.1}}", "stage.balance_lengths=10", "stage.batch_sum=0.001",
    ],
}  # fmt: skip
LONG = ["stage.kl_coef=0.02", "stage.updates=180", "stage.sentinel.kl_max=null"]  # the recipe has 0.2 and 60
SIZE = ["stage.prompts=400", "stage.samples=4"]


def commands(seed: int, variants: Sequence[str], long: bool, ppo: bool = True) -> dict[Path, list[str]]:
    """Return folder -> overrides of each run of a seed, parents first. A variant's runs are in a folder of its name."""
    home = FOLDER / f"seed-{seed}"
    start = f"stage.policy={home}/sft"
    found = {home / "base": ["stage=base"], home / "sft": ["stage=sft"]}
    for variant in variants:
        own, reward = home / folder(variant), f"stage.reward={home / folder(variant)}/reward"
        found[own / "reward"] = ["stage=reward", start, f"stage.sampler={home}/base", *VARIANTS[variant]]
        columns = {"base": home / "base", "sft": home / "sft"}
        if ppo:
            found[own / "ppo"] = ["stage=ppo", start]
            columns["ppo"] = own / "ppo"
        if long:
            found[own / "long" / "ppo"] = ["stage=ppo", start, reward, *LONG]
            columns["long"] = own / "long" / "ppo"
        asked = ", ".join(f"{name}: {path}" for name, path in columns.items())
        found[compared(own, ppo)] = ["stage=compare", f"stage.models={{{asked}}}", "stage.questions=[]", reward, *SIZE]
    return found


def folder(variant: str) -> str:
    return variant.replace(" ", "-")


def compared(own: Path, ppo: bool) -> Path:
    """Return the folder of a variant's comparison, with or without its policies."""
    return own / "compare" if ppo else own / "without-ppo" / "compare"


def train(seed: int, variants: Sequence[str], long: bool, ppo: bool) -> None:
    for path, own in commands(seed, variants, long, ppo).items():
        if not (path / "run.json").exists():
            name = path.parent.relative_to(CHECKPOINTS)
            subprocess.run([sys.executable, "-m", "rlhf", *own, f"name={name}", f"seed={seed}"], check=True)


def measure(seed: int, variant: str, ppo: bool) -> dict[str, Any]:
    """Measure a variant: held-out accuracy, mean scores, correlation with gold, its policies' gold and KL."""
    from scipy.stats import spearmanr

    home = FOLDER / f"seed-{seed}" / folder(variant)
    accuracy = json.loads((home / "reward" / "run.json").read_text(encoding="utf-8"))["metrics"]["test/accuracy"]
    place = compared(home, ppo)
    models = json.loads((place / "metrics.json").read_text(encoding="utf-8"))["models"]
    with (place / "responses.jsonl").open(encoding="utf-8") as lines:  # a response may have U+2028
        rows = [row for row in map(json.loads, lines) if row["model"] in ("base", "sft")]
    return {
        "seed": seed, "variant": variant, "accuracy": accuracy,
        "scores": {name: of["reward"]["mean"] for name, of in models.items()},
        "gold": {name: of["gold"]["mean"] for name, of in models.items()},
        "kl": {name: of["kl"]["mean"] for name, of in models.items() if "kl" in of},
        "correlation": float(spearmanr([row["reward"] for row in rows], [row["gold"] for row in rows]).statistic),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return a Markdown table of each variant: means over its seeds, with half of the 95 % interval."""
    from rlhf.evaluation.sweeps.ladder import interval

    headings = ["reward model", "seeds", "accuracy", "score of base", "score of SFT", "base below SFT"]
    headings += ["correlation with gold", "gold of PPO", "difference from default"]
    gold = {(row["variant"], row["seed"]): row["gold"]["ppo"] for row in rows if "ppo" in row["gold"]}
    lines = []
    for variant in sorted({row["variant"] for row in rows}, key=list(VARIANTS).index):
        of = [row for row in rows if row["variant"] == variant]
        below = sum(row["scores"]["base"] < row["scores"]["sft"] for row in of)
        means = [fmean(row["scores"][name] for row in of) for name in ("base", "sft")]
        own = {seed: value for (name, seed), value in gold.items() if name == variant}
        gains = [value - gold["default", seed] for seed, value in own.items() if ("default", seed) in gold]
        lines.append([
            variant, str(len(of)), str(interval([row["accuracy"] for row in of])), *(f"{mean:.2f}" for mean in means),
            f"{below} of {len(of)}", f"{fmean(row['correlation'] for row in of):.2f}",
            str(interval([*own.values()])) if own else "–",
            str(interval(gains)) if gains and variant != "default" else "–",
        ])  # fmt: skip
    return list(markdown.table(headings, lines, str))


def table_long(rows: list[dict[str, Any]]) -> list[str]:
    """Return a Markdown table of the long runs of PPO: gold reward, score and KL; empty without such runs."""
    found = [row for row in rows if "long" in row["gold"]]
    lines = [
        [row["variant"], row["seed"], *(f"{row['gold'][name]:.2f}" for name in ("sft", "ppo", "long")),
         f"{row['scores']['long']:.2f}", f"{row['kl']['long']:.1f}"]
        for row in found
    ]  # fmt: skip
    headings = ["reward model", "seed", "gold of SFT", "gold of PPO", "gold of long PPO", "its score", "its KL"]
    return list(markdown.table(headings, lines, str)) if found else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--long", action="store_true", help="also train PPO at a tenth of the KL coefficient")
    parser.add_argument("--ppo", action=argparse.BooleanOptionalAction, default=True, help="train and compare policies")
    parser.add_argument("--show", action="store_true", help="print the stored results and run nothing")
    arguments = parser.parse_args()
    if not arguments.show:
        for seed in arguments.seeds:
            train(seed, arguments.variants, arguments.long, arguments.ppo)
        rows = [measure(seed, variant, arguments.ppo) for variant in arguments.variants for seed in arguments.seeds]
        stored.add(RESULT, rows, ("variant", "seed"), "benchmarks.reward_robust")
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
    print("\n".join([*table(rows), "", *table_long(rows)]))


if __name__ == "__main__":
    main()
