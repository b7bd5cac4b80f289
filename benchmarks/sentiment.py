"""Positive stories from a real base model: DPO, PPO, RLOO and best-of-n, labeled and measured by a known sentiment.

    RLHF_TEST_MODELS=... python -m benchmarks.sentiment                  # all of it, about two hours on one core
    RLHF_TEST_MODELS=... python -m benchmarks.sentiment --openings       # only the prompts of experiment=sentiment
    python -m benchmarks.sentiment --show                                # print the last results

The controlled experiment of Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, section 6.1, at the size of a CPU.
A prompt is the opening of a story, sampled from stories15M and cut in its first sentences; that model is the start of
every policy. `python -m rlhf stage=ladder experiment=sentiment` samples four continuations per opening, labels pairs of
them by VADER's compound score (the gold reward), and trains a reward model and the policies, for each seed from its own
samples. `stage=compare` then asks all policies of a seed the same held-out openings:

* the KL divergence is estimated on a policy's samples: log pi - log pi_start, summed over a continuation;
* best of n takes the continuation with the highest score of the learned reward model among n samples of the start; its
  mean gold reward is over all subsets of n, its KL at most log n - (n - 1)/n.

Finished runs are only read. Prints a table; writes benchmarks/sentiment.json and docs/figures/sentiment.svg.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

from rlhf.storage import markdown

RESULT = Path(__file__).with_suffix(".json")
FIGURE = RESULT.parents[1] / "docs" / "figures" / "sentiment.svg"
CHECKPOINTS = Path("checkpoints", "sentiment")
LADDER = CHECKPOINTS / "ladder"
STARTS = ("Once upon a time", "One day", "There was", "In the", "A little")
SPLITS = {"validation": 60, "test": 100, "train": 500}  # openings; the train split has what is left, at most this many
DRAWN, LONGEST = 1000, 9  # sampled openings, before equal ones are removed; tokens after the start
NS = (1, 2, 4)


def openings(model: Path, folder: Path) -> None:
    """Sample distinct openings of stories and write the splits of data.prompts, unless they exist."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rlhf.modeling.generation import generate

    if (folder / "train.jsonl").exists():
        return
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token
    starts = [STARTS[i % len(STARTS)] for i in range(DRAWN)]
    sampled = generate(
        AutoModelForCausalLM.from_pretrained(model, dtype="float32").eval(), tokenizer, starts, max_prompt_length=None,
        max_response_length=LONGEST, temperature=1.0, seed=0, batch_size=256,
    )  # fmt: skip
    stories = [start + response.text for start, response in zip(starts, sampled, strict=True)]
    found = list(dict.fromkeys(story.rpartition(" ")[0] for story in stories))  # the last word may be half a word
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in SPLITS.items():
        rows, found = found[:count], found[count:]
        text = "".join(json.dumps({"prompt": row}) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")


def train(seeds: list[int]) -> None:
    """Run the ladder, which skips what is finished, and compare each seed's policies on the held-out openings."""
    rlhf("stage=ladder", f"stage.seeds={seeds}")
    for seed in seeds:
        name = f"name=sentiment/ladder/seed-{seed}"
        if not (LADDER / f"seed-{seed}" / "compare" / "metrics.json").exists():
            rlhf("stage=compare", name, f"seed={seed}")


def rlhf(*overrides: str) -> None:
    subprocess.run([sys.executable, "-m", "rlhf", "experiment=sentiment", *overrides], check=True)


def responses(folder: Path) -> dict[str, list[list[dict[str, Any]]]]:
    """Return model -> its responses of a comparison by opening: (openings, samples)."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for line in (folder / "responses.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.setdefault(row["model"], {}).setdefault(row["prompt"], []).append(row)
    return {model: list(of.values()) for model, of in found.items()}


def measure(seed: int) -> dict[str, Any]:
    """Measure the policies of a seed on the held-out openings; intervals are over these."""
    from rlhf.evaluation.statistics.metrics import estimate

    def of(rows: list[list[dict[str, Any]]], key: str) -> list[list[float]]:
        return [[row[key] for row in group] for group in rows]

    folder = LADDER / f"seed-{seed}"
    found = responses(folder / "compare")
    start = found.pop("sft")
    base = [fmean(group) for group in of(start, "gold")]
    policies = {}
    for model, rows in found.items():
        gold = of(rows, "gold")
        gains = [[fmean(group) - at] for group, at in zip(gold, base, strict=True)]
        policies[model] = {
            "gold": estimate(gold, 2000, seed)._asdict(),
            "gain": estimate(gains, 2000, seed)._asdict(),
            "kl": estimate(of(rows, "kl"), 2000, seed)._asdict(),
        }
    policies |= best_of_n(of(start, "reward"), of(start, "gold"), base, seed)
    metrics = json.loads((folder / "reward" / "run.json").read_text(encoding="utf-8"))["metrics"]
    accuracy = {name: value for name, value in metrics.items() if "accuracy" in name}
    paths = {model: curve(folder / model) for model in found if (folder / model / "metrics.jsonl").exists()}
    start_gold = estimate(of(start, "gold"), 2000, seed)._asdict()
    return {"seed": seed, "start": start_gold, "policies": policies, "reward": accuracy, "curves": paths}


def best_of_n(proxy: list[list[float]], gold: list[list[float]], base: list[float], seed: int) -> dict[str, Any]:
    """Return the best of n samples of the start by ``proxy``, (openings, samples), measured by ``gold``."""
    from rlhf.evaluation.comparison.frontier import best_of_n as expected
    from rlhf.evaluation.responses.best_of_n import best_of_n_kl
    from rlhf.evaluation.statistics.metrics import estimate

    found = {}
    for n in NS:
        chosen = [expected(by, of, n) for by, of in zip(proxy, gold, strict=True)]
        gains = [[one - at] for one, at in zip(chosen, base, strict=True)]
        found[f"best of {n}"] = {
            "gold": estimate([[one] for one in chosen], 2000, seed)._asdict(),
            "gain": estimate(gains, 2000, seed)._asdict(),
            "kl": {"mean": best_of_n_kl(n)},
        }
    return found


def curve(run: Path) -> list[list[float]]:
    """Return KL and gold reward of each update of RL, on its training openings; empty for other runs."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [[line["objective/kl"], line["objective/gold"]] for line in lines if "objective/gold" in line]


def table(seeds: list[dict[str, Any]]) -> list[str]:
    """Return a Markdown table of all policies: means over seeds, and each seed's gain with its interval."""
    from rlhf.evaluation.sweeps.ladder import interval

    def row(model: str) -> list[str]:
        of = [one["policies"][model] for one in seeds]
        gains = [f"{one['gain']['mean']:+.2f} [{one['gain']['low']:.2f}, {one['gain']['high']:.2f}]" for one in of]
        gold = interval([one["gold"]["mean"] for one in of])
        return [model, f"{fmean(one['kl']['mean'] for one in of):.2f}", str(gold), *gains]

    headings = ["policy", "KL (nats)", "sentiment", *(f"gain over SFT, seed {one['seed']}" for one in seeds)]
    start = ["SFT", "0.00", str(interval([one["start"]["mean"] for one in seeds])), *("–" for _ in seeds)]
    lines = [row(model) for model in seeds[0]["policies"] if model != "best of 1"]
    return list(markdown.table(headings, [start, *lines], str))


def draw(seeds: list[dict[str, Any]]) -> str:
    """Draw gold reward over KL: best of n, the updates of RL, and the final policies with intervals over openings."""
    from rlhf.evaluation.reporting.drawing import COLORS, canvas, finish, point

    with canvas(7.0, 4.2) as figure:
        axes = figure.subplots()
        best = [f"best of {n}" for n in NS]
        means = {name: fmean(one["policies"][name]["gold"]["mean"] for one in seeds) for name in best}
        kls = [seeds[0]["policies"][name]["kl"]["mean"] for name in best]
        axes.plot(kls, list(means.values()), "o-", color=COLORS[0], label="best of n by the reward model, n = 1, 2, 4")
        for index, model in enumerate(name for name in seeds[0]["policies"] if name not in best):
            look = point(index + 1)
            for number, one in enumerate(seeds):
                if path := one["curves"].get(model):
                    axes.plot(*zip(*path, strict=True), color=look["color"], alpha=0.3, linewidth=0.8)
                gold, kl = one["policies"][model]["gold"], one["policies"][model]["kl"]
                bars = [[gold["mean"] - gold["low"]], [gold["high"] - gold["mean"]]]
                label = {} if number else {"label": model}
                axes.errorbar([kl["mean"]], [gold["mean"]], yerr=bars, capsize=3, **look, **label)
        axes.set(xlabel="KL to SFT (nats per continuation)", ylabel="sentiment (VADER)", xlim=(-0.2, None))
        axes.legend(loc="lower right")
        return finish(figure, "sentiment", "Sentiment over KL from SFT", "").standalone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--openings", action="store_true", help="only write the openings")
    parser.add_argument("--show", action="store_true", help="print the stored results and run nothing")
    arguments = parser.parse_args()
    if arguments.show:
        return print("\n".join(table(json.loads(RESULT.read_text(encoding="utf-8"))["seeds"])))
    models = os.environ.get("RLHF_TEST_MODELS")
    if models is None:
        sys.exit("RLHF_TEST_MODELS must name the folder of the models: see docs/results.md")
    openings(Path(models, "stories15M"), CHECKPOINTS / "openings")
    if arguments.openings:
        return
    train(arguments.seeds)
    found = [measure(seed) for seed in arguments.seeds]
    print("\n".join(table(found)))
    machine = {"date": date.today().isoformat(), "processor": platform.processor() or platform.machine(),
               "threads": os.environ.get("OMP_NUM_THREADS"), "python": platform.python_version()}  # fmt: skip
    content = {"command": " ".join(["python -m benchmarks.sentiment", *sys.argv[1:]]), "machine": machine}
    RESULT.write_text(json.dumps(content | {"seeds": found}, indent=2) + "\n", encoding="utf-8")
    FIGURE.write_text(draw(found), encoding="utf-8")


if __name__ == "__main__":
    main()
