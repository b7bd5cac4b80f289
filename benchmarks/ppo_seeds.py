"""PPO over many seeds from one SFT policy and one reward model: does a seed collapse, and does the sentinel detect it?

    python -m benchmarks.ppo_seeds                      # 10 seeds of the embedded stage
    python -m benchmarks.ppo_seeds --bad --jobs 2       # also three wrong settings, 10 seeds each
    python -m benchmarks.ppo_seeds --show               # print the last results as Markdown

The stages before PPO (base, sft, reward, seed 0) run first if checkpoints/ppo-seeds does not have them. Each PPO run is
a separate process. All final policies then answer the same held-out prompts in one `stage=compare`. The wrong settings
run with stage.sentinel.action=stop and count as caught if the sentinel stopped them. Writes ppo_seeds.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

from rlhf.storage import markdown

RESULT = Path(__file__).with_suffix(".json")
NAME = "ppo-seeds"
CHAIN = Path("checkpoints", NAME)
REWARD = f"stage.reward={CHAIN}/reward"
BAD = {
    "learning rates × 30": [REWARD, "stage.learning_rate=6e-3", "stage.critic_learning_rate=1.5e-2"],
    "no KL penalty": [REWARD, "stage.kl_coef=0"],
    "reward flipped": [f"stage.rewards={{flipped: {{run: {CHAIN}/reward, weight: -1, normalization: stored}}}}"],
}


def rlhf(*overrides: str, check: bool = True) -> int:
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return subprocess.run([sys.executable, "-m", "rlhf", *overrides], check=check, env=environment).returncode


def healthy(seed: int, more: list[str]) -> dict:
    """Run PPO with the settings of the experiment; a finished run that is up to date is only read."""
    name = f"{NAME}/seed-{seed}"
    own = [f"stage.policy={CHAIN}/sft", REWARD, *more_of("ppo", more)]
    rlhf("stage=progression", "stage.stages=[ppo]", f"name={name}", f"seed={seed}", overrides(ppo=own), *shared(more))
    manifest = json.loads(Path("checkpoints", name, "ppo", "run.json").read_text())
    return {
        "seed": seed,
        "seconds": manifest["seconds"],
        "score": manifest["metrics"]["objective/scores"],
        "diagnoses": [(item["name"], item["step"]) for item in manifest["diagnoses"]],
    }


def bad(setting: str, seed: int, more: list[str]) -> dict:
    """Run PPO with a wrong setting, which the sentinel should stop, and return its diagnoses."""
    slug = "-".join(word for word in setting.split() if word.isalnum())
    name = f"{NAME}/{slug}/seed-{seed}"
    code = rlhf(
        "stage=ppo", "overwrite=true", f"name={name}", f"seed={seed}", f"stage.policy={CHAIN}/sft", *BAD[setting],
        "stage.sentinel.action=stop", *more_of("ppo", more), *shared(more), check=False,
    )  # fmt: skip
    left = Path("checkpoints", name, ".ppo.partial" if code else "ppo", "run.json")
    manifest = json.loads(left.read_text())
    found = [(item["name"], item["step"]) for item in manifest["diagnoses"]]
    if code and not found:
        raise SystemExit(f"{name} failed for another reason: {manifest.get('reason')}")
    return {"seed": seed, "ended_early": bool(code), "diagnoses": found}


def overrides(**stages: list[str]) -> str:
    return f"stage.overrides={{{', '.join(f'{name}: {json.dumps(own)}' for name, own in stages.items())}}}"


def shared(more: list[str]) -> list[str]:
    """Return the settings for all stages: those without a stage prefix such as ``ppo:stage.updates=2``."""
    return [item for item in more if ":" not in item.partition("=")[0]]


def more_of(stage: str, more: list[str]) -> list[str]:
    return [item.removeprefix(f"{stage}:") for item in more if item.startswith(f"{stage}:")]


def compare(seeds: list[int], more: list[str]) -> dict:
    """Return gold reward, win rate vs SFT and KL of each policy, with bootstrap intervals over held-out prompts."""
    models = {"sft": CHAIN / "sft"} | {f"seed-{seed}": CHAIN / f"seed-{seed}" / "ppo" for seed in seeds}
    listed = ", ".join(f"{title}: {path}" for title, path in models.items())
    rlhf(
        "stage=compare", "overwrite=true", f"name={NAME}", f"stage.models={{{listed}}}", REWARD,
        *more_of("compare", more), *shared(more),
    )  # fmt: skip
    return json.loads((CHAIN / "compare" / "metrics.json").read_text())["models"]


def measure(seeds: list[int], with_bad: bool, jobs: int, more: list[str]) -> dict:
    own = {stage: more_of(stage, more) for stage in ("base", "sft", "reward") if more_of(stage, more)}
    chain = [overrides(**own)] if own else []
    rlhf("stage=progression", "stage.stages=[base,sft,reward]", f"name={NAME}", "seed=0", *chain, *shared(more))
    settings = list(BAD) if with_bad else []
    with ThreadPoolExecutor(jobs) as pool:
        runs = [pool.submit(healthy, seed, more) for seed in seeds]
        wrong = {setting: [pool.submit(bad, setting, seed, more) for seed in seeds] for setting in settings}
        found = {"healthy": [run.result() for run in runs]}
        found["bad"] = {setting: [run.result() for run in made] for setting, made in wrong.items()}
    models = compare(seeds, more)
    found["sft"] = models["sft"]["gold"]["mean"]
    for row in found["healthy"]:
        measured = models[f"seed-{row['seed']}"]
        names = {"gold": "gold", "win_rate": "win_rate/gold", "kl": "kl"}
        row |= {name: [measured[key][part] for part in ("mean", "low", "high")] for name, key in names.items()}
        row["collapsed"] = row["gold"][0] < found["sft"]
    return found


def interval(values: list[float]) -> str:
    """Return the mean over seeds and the half-width of its 95 % interval, from Student's t distribution."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    quantile = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}.get(
        len(values) - 1, 2.0
    )
    half = quantile * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):.3f} ±{half:.3f}"


def table(found: dict) -> list[str]:
    """Return the results as Markdown tables."""
    rows, lines = found["healthy"], []
    for row in rows:
        alarms = ", ".join(f"{name} at {update}" for name, update in row["diagnoses"]) or "–"
        wins = "{:.3f} [{:.3f}, {:.3f}]".format(*row["win_rate"])
        collapsed = "yes" if row["collapsed"] else "no"
        lines.append([row["seed"], f"{row['gold'][0]:.3f}", wins, f"{row['kl'][0]:.2f}", collapsed, alarms])
    means = [interval([row[name][0] for row in rows]) for name in ("gold", "win_rate", "kl")]
    collapsed, alarms = sum(row["collapsed"] for row in rows), sum(bool(row["diagnoses"]) for row in rows)
    lines.append(["mean", *means, f"{collapsed} of {len(rows)}", f"{alarms} of {len(rows)} seeds"])
    drawn = list(markdown.table(["seed", "gold", "win rate vs SFT", "KL to SFT", "collapsed", "diagnoses"], lines, str))
    drawn += ["", f"SFT has a gold reward of {found['sft']:.3f}."]
    bad = []
    for setting, runs in found["bad"].items():
        caught = [run["diagnoses"][0] for run in runs if run["ended_early"]]
        ends = sorted(update for _, update in caught)
        when = f"{statistics.median(ends):g} ({ends[0]} to {ends[-1]})" if ends else "–"
        names = ", ".join(f"{name} ({count})" for name, count in Counter(name for name, _ in caught).most_common())
        bad.append([setting, f"{len(caught)} of {len(runs)}", when, names or "–"])
    if bad:
        drawn += ["", *markdown.table(["setting", "caught", "ended at update", "first diagnosis"], bad, str)]
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds, from 0")
    parser.add_argument("--bad", action="store_true", help="run the wrong settings too")
    parser.add_argument("--jobs", type=int, default=1, help="runs in parallel, of OMP_NUM_THREADS threads (default 1)")
    parser.add_argument("--show", action="store_true", help="print the stored results and run nothing")
    parser.add_argument("overrides", nargs="*", help="settings for every run, e.g. hardware=cpu ppo:stage.updates=2")
    arguments = parser.parse_args()
    if arguments.show:
        if not RESULT.exists():
            raise SystemExit(f"{RESULT} is missing: run python -m benchmarks.ppo_seeds first")
        return print("\n".join(table(json.loads(RESULT.read_text()))))
    found = measure(list(range(arguments.seeds)), arguments.bad, arguments.jobs, arguments.overrides)
    machine = {
        "date": date.today().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    command = "python -m benchmarks.ppo_seeds " + " ".join(sys.argv[1:])
    RESULT.write_text(json.dumps({"command": command.strip(), "machine": machine, **found}, indent=2) + "\n")
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
