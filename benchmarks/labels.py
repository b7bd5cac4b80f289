"""Accuracy of a reward model over labels bought: pairs picked by the disagreement of reward models, or at random.

    python -m benchmarks.labels --seeds 0 1 2 3 4
    python -m benchmarks.labels --seeds 0 --members 3    # the variance of three adapters instead of the smallest margin
    python -m benchmarks.labels --show                   # print the last results

On the embedded world, with one base and one SFT run. In each round a seed samples responses to other prompts, and each
way buys as many labels of their pairs; the gold reward labels without noise, and a tie is bought, too, but teaches
nothing. The first pairs are random and shared. From then on the reward models of the round before pick pairs for
``disagreement``. Each point is a reward model that starts from SFT and learns from all pairs of its way so far, tested
on random pairs of held-out prompts. Finished runs are only read. Prints a table; writes benchmarks/labels.json and
docs/figures/labels.svg.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

from rlhf.storage import markdown

RESULT = Path(__file__).with_suffix(".json")
FIGURE = RESULT.parents[1] / "docs" / "figures" / "labels.svg"
CHECKPOINTS = Path("checkpoints")
FOLDER = CHECKPOINTS / "labels"
WAYS = ("random", "disagreement")
PROMPTS = 300  # of a round, each with four responses; at most one of its six pairs is labeled
SAMPLED = ["stage.max_prompt_length=64", "stage.max_response_length=40", "stage.batch_size=256"]
GOLD = ["judge=function", "judge.function=rlhf.almanac:gold"]
REWARD = [
    "stage.trainer.num_train_epochs=10", "stage.probe_rows=0", "stage.autopsies=0", "stage.statistics_prompts=16",
    "stage.sample_prompts=0", "data.ceiling=null",
]  # fmt: skip
HELD_OUT = {"validation": "stage.pairs=1", "test": "stage.pairs=6"}


def run(path: Path, *own: str) -> Path:
    """Run the stage of a directory if it is not finished, and return the directory."""
    if not (path / "run.json").exists():
        name = path.parent.relative_to(CHECKPOINTS)
        command = [sys.executable, "-m", "rlhf", f"stage={path.name}", *own, f"name={name}", "resume=true"]
        subprocess.run(command, check=True)
    return path


def sampled(home: Path, *own: str) -> Path:
    return run(home / "sample", f"stage.policy={FOLDER}/sft", *SAMPLED, *own)


def start() -> None:
    """Train base and SFT, and label the held-out pairs, which all seeds share."""
    run(FOLDER / "base")
    run(FOLDER / "sft")
    for split, pairs in HELD_OUT.items():
        samples = sampled(FOLDER / split, f"stage.split={split}")
        run(FOLDER / split / "label", f"stage.sample={samples}", pairs, *GOLD)


def points(seed: int, labels: int, rounds: int, members: int) -> Iterator[dict[str, Any]]:
    """Yield the accuracy of each way after each round."""
    several = ["adapter=lora", f"stage.ensemble={members}"] if members > 1 else []
    home = FOLDER / f"seed-{seed}" / f"{labels}-labels-{members}-members"
    bought: dict[str, list[Path]] = {way: [] for way in WAYS}
    models: dict[str, Path] = {}
    for number in range(1, rounds + 1):
        pool = sampled(
            FOLDER / f"seed-{seed}" / f"pool-{number}",
            f"stage.stream={number}",
            f"stage.prompts={PROMPTS}",
            f"seed={seed}",
        )
        for way in WAYS:
            place = home / (f"round-{number}" if number == 1 else f"round-{number}-{way}")
            own = [f"stage.sample={pool}", f"stage.limit={labels}", f"seed={seed}", *GOLD]
            if number > 1 and way == "disagreement":
                others = [f"{models[way]}/member-{member}" for member in range(1, members)]
                own += ["stage.pick=disagreement", f"stage.pick_by=[{','.join([str(models[way]), *others])}]"]
            bought[way].append(run(place / "label", *own))
            data = f"data.preferences.path={gathered(place / 'pairs', bought[way])}"
            given = [f"stage.policy={FOLDER}/sft", data, f"seed={seed}"]
            models[way] = run(place / "reward", *given, *several, *REWARD)
            yield {
                "seed": seed, "way": way, "labels": number * labels,
                "pairs": sum(metrics(one)["preferences"] for one in bought[way]),
                "accuracy": metrics(models[way])["test/accuracy"],
            }  # fmt: skip


def gathered(folder: Path, bought: list[Path]) -> Path:
    """Write all pairs of a way and the held-out ones into a folder of preference data, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, runs in {"train": bought, **{split: [FOLDER / split / "label"] for split in HELD_OUT}}.items():
        texts = [(one / "preferences.jsonl").read_text(encoding="utf-8") for one in runs]
        (folder / f"{split}.jsonl").write_text("".join(texts), encoding="utf-8")
    return folder


def metrics(path: Path) -> dict[str, float]:
    return json.loads((path / "run.json").read_text(encoding="utf-8"))["metrics"]


def by_labels(rows: list[dict[str, Any]]) -> dict[int, dict[str, list[float]]]:
    """Return labels bought -> way -> accuracy of each seed, in the order of the seeds."""
    found: dict[int, dict[str, list[float]]] = {}
    for row in sorted(rows, key=lambda row: (row["labels"], row["seed"])):
        found.setdefault(row["labels"], {way: [] for way in WAYS})[row["way"]].append(row["accuracy"])
    return found


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return a Markdown table: mean accuracy over seeds and the paired difference, with half of the 95 % intervals."""
    from rlhf.evaluation.sweeps.ladder import interval

    lines = []
    for labels, of in by_labels(rows).items():
        gains = [picked - drawn for drawn, picked in zip(*(of[way] for way in WAYS), strict=True)]
        kept = [fmean(row["pairs"] for row in rows if (row["labels"], row["way"]) == (labels, way)) for way in WAYS]
        cells = [f"{interval(of[way])} ({pairs:.0f})" for way, pairs in zip(WAYS, kept, strict=True)]
        lines.append([labels, len(gains), *cells, interval(gains)])
    return list(markdown.table(["labels bought", "seeds", *(f"{way} (pairs)" for way in WAYS), "gain"], lines, str))


def draw(rows: list[dict[str, Any]]) -> str:
    """Draw accuracy over labels bought, with the 95 % intervals over seeds."""
    from rlhf.evaluation.reporting.drawing import canvas, finish, point
    from rlhf.evaluation.sweeps.ladder import interval

    found = by_labels(rows)
    with canvas(6.0, 3.8) as figure:
        axes = figure.subplots()
        for index, way in enumerate(WAYS):
            means = [interval(of[way]) for of in found.values()]
            look = point(index) | {"linestyle": "-", "capsize": 3, "label": way}
            axes.errorbar(list(found), [one.mean for one in means], yerr=[one.half or 0 for one in means], **look)
        axes.set(xlabel="labels bought", ylabel="held-out accuracy")
        axes.legend(loc="lower right")
        return finish(figure, "labels", "Accuracy over labels bought", "").standalone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--labels", type=int, default=100, help="labels that each way buys in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--members", type=int, default=1, help="reward models of a point; above 1: adapters")
    parser.add_argument("--show", action="store_true", help="print the stored results and run nothing")
    arguments = parser.parse_args()
    if not arguments.show:
        start()
        given = (arguments.labels, arguments.rounds, arguments.members)
        rows = [row for seed in arguments.seeds for row in points(seed, *given)]
        machine = {"date": date.today().isoformat(), "processor": platform.processor() or platform.machine(),
                   "threads": os.environ.get("OMP_NUM_THREADS"), "python": platform.python_version()}  # fmt: skip
        content = {"command": shlex.join(["python", "-m", "benchmarks.labels", *sys.argv[1:]]), "machine": machine}
        RESULT.write_text(json.dumps(content | {"rows": rows}, indent=2) + "\n", encoding="utf-8")
        FIGURE.write_text(draw(rows), encoding="utf-8")
    print("\n".join(table(json.loads(RESULT.read_text(encoding="utf-8"))["rows"])))


if __name__ == "__main__":
    main()
