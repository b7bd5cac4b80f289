"""PPO and best-of-n on a real base model: sentiment of stories against the KL divergence from the base.

    RLHF_TEST_MODELS=... RLHF_TEST_DATA=... python -m benchmarks.ppo_sentiment --seeds 1 2 3
    python -m benchmarks.ppo_sentiment --show                # print the last results

The policy is stories15M, pretrained only on children's stories. A prompt is the opening of a story. The reward is the
compound sentiment by VADER of the continuation (Hutto and Gilbert 2014, PyPI vaderSentiment), in [-1, 1]. Each seed is
one `python -m rlhf stage=ppo` with that function as its only reward and a critic that starts from the policy; finished
runs are only read. Then both policies continue held-out openings:

* PPO's divergence from the base is estimated on its samples: log pi - log pi_base summed over a continuation;
* the divergence of the best of n samples of the base is log n - (n - 1)/n nats (an upper bound: Beirami et al. 2024,
  https://arxiv.org/abs/2401.01879; Stiennon et al. 2020, appendix G.3), and its mean score is estimated from all
  subsets of n (Nakano et al. 2021, https://arxiv.org/abs/2112.09332, appendix I).

Prints a table; writes benchmarks/ppo_sentiment.json, and docs/figures/ppo_sentiment.svg if matplotlib is installed.
"""

import argparse
import gzip
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from rlhf.storage import markdown

RESULT = Path(__file__).with_suffix(".json")
FIGURE = RESULT.parents[1] / "docs" / "figures" / "ppo_sentiment.svg"
RUNS = "benchmark/sentiment"
NS = (1, 2, 4, 8, 16)
OPENING = 12  # words of a prompt
HELD_OUT = 40  # number of held-out openings
SAMPLES = {"base": 32, "ppo": 8}  # continuations of each held-out opening
SEED = 0  # of the measurement, for all seeds of training
LENGTH, TEMPERATURE = 24, 1.0  # tokens of a continuation
# Selected by trials on seed 0; all runs take minutes on a single thread.
SETTINGS = (
    "stage.updates=24",
    "stage.batch_size=48",
    "stage.minibatches=3",
    "stage.micro_batch_size=16",
    "stage.epochs=1",
    "stage.learning_rate=3e-5",
    "stage.critic_learning_rate=5e-4",
    "stage.critic_warmup_updates=1",
    "stage.warmup_updates=3",
    "stage.kl_coef=0.05",
    "stage.gae_lambda=1.0",
    "stage.max_prompt_length=32",
    f"stage.max_response_length={LENGTH}",
    f"stage.temperature={TEMPERATURE}",
    "stage.missing_eos=keep",  # continuations stop at the maximum length on purpose
    "stage.normalize_scores=false",
    "stage.save_every=8",
)


@cache
def analyzer() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def sentiment(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """VADER's compound score of each continuation, in [-1, 1]; the opening is not scored."""
    return [analyzer().polarity_scores(text)["compound"] for text in completions]


def openings(path: Path) -> tuple[list[str], list[str]]:
    """Return the distinct openings of the stories for training, and the held-out ones."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        stories = [json.loads(line)["text"] for line in file]
    found = list(dict.fromkeys(" ".join(story.split()[:OPENING]) for story in stories))
    return found[:-HELD_OUT], found[-HELD_OUT:]


def run_seed(seed: int, model: Path, prompts: Path, overrides: Sequence[str]) -> Path:
    """Run stage=ppo and return the directory of the run."""
    command = [
        *(sys.executable, "-m", "rlhf", "stage=ppo", "experiment=none", f"name={RUNS}/{seed}", f"seed={seed}"),
        *("model=stories15m", f"stage.policy={model}", f"data.path={prompts}", "resume=true"),
        *("stage.reward=null", "stage.rewards={sentiment: {function: benchmarks.ppo_sentiment:sentiment}}"),
        *(*SETTINGS, *overrides),
    ]
    subprocess.run(command, check=True)
    return Path("checkpoints", RUNS, str(seed), "ppo")


def best_of(scores: Sequence[float], n: int) -> float:
    """Return the mean of the largest score over all subsets of size n: Σᵢ C(i-1, n-1) / C(N, n) · s₍ᵢ₎, s ascending."""
    ordered = sorted(scores)
    weights = [math.comb(i, n - 1) for i in range(len(ordered))]
    return sum(weight * score for weight, score in zip(weights, ordered, strict=True)) / math.comb(len(ordered), n)


def best_of_kl(n: int) -> float:
    """Return log n - (n - 1)/n, in nats."""
    return math.log(n) - (n - 1) / n


class Measure:
    """Sample continuations of the held-out openings and score them; divergences are from the model in ``base``."""

    def __init__(self, base: Path, prompts: list[str]):
        from rlhf import ppo

        self.prompts, self.base = prompts, load(base)
        self.stage = ppo.settings(batch_size=64, temperature=TEMPERATURE, max_prompt_length=32)

    def scores(self, folder: Path, samples: int, *, divergence: bool) -> tuple[list[list[float]], list[list[float]]]:
        """Return scores of ``samples`` continuations per opening; with ``divergence``, also log pi - log pi_base."""
        from transformers import AutoTokenizer

        from rlhf.evaluation.responses.answers import Candidate, by_prompt, divergences
        from rlhf.modeling.generation import generate

        policy, tokenizer = load(folder), AutoTokenizer.from_pretrained(folder)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token
        asked = [prompt for prompt in self.prompts for _ in range(samples)]
        responses = generate(
            policy, tokenizer, asked, max_prompt_length=32, max_response_length=LENGTH, temperature=TEMPERATURE,
            seed=SEED, batch_size=64,
        )  # fmt: skip
        scores = by_prompt(sentiment(asked, [response.text for response in responses]), samples)
        if not divergence:
            return scores, []
        candidate = Candidate("ppo", policy, tokenizer, plain=False)
        return scores, by_prompt(divergences(candidate, self.base, asked, responses, self.stage), samples)


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


def measure_base(measure: Measure, model: Path) -> dict[str, Any]:
    """Measure the base model and the best of n of its samples."""
    from rlhf.evaluation.statistics.metrics import estimate

    scores, _ = measure.scores(model, SAMPLES["base"], divergence=False)
    rows = []
    for n in NS:
        found = estimate([[best_of(group, n)] for group in scores], 2000, SEED)
        rows.append({"n": n, "kl": best_of_kl(n), "sentiment": found._asdict()})
    return {"best_of_n": rows}


def measure_seed(measure: Measure, seed: int, run: Path) -> dict[str, Any]:
    """Measure a finished run: its curve during training, its sentiment and KL on held-out openings."""
    from rlhf.evaluation.statistics.metrics import estimate

    scores, kl = measure.scores(run / "model", SAMPLES["ppo"], divergence=True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return {
        "seed": seed,
        "sentiment": estimate(scores, 2000, SEED)._asdict(),
        "kl": estimate(kl, 2000, SEED)._asdict(),
        "seconds": manifest["seconds"],
        "peak_memory_gib": manifest["peak_memory_gib"],
        "curve": [
            {"update": line["step"], "kl": line["objective/kl"], "sentiment": line["objective/scores"]}
            for line in lines
        ],
    }


def table(found: dict[str, Any]) -> list[str]:
    """Return a Markdown table of best-of-n and all seeds; intervals are over held-out openings."""

    def row(name: str, kl: str, sentiment: dict[str, float]) -> list[str]:
        return [name, kl, f"{sentiment['mean']:.3f} [{sentiment['low']:.3f}, {sentiment['high']:.3f}]"]

    lines = []
    for one in found["best_of_n"]:
        name = "base" if one["n"] == 1 else f"best of {one['n']}"
        lines.append(row(name, f"{one['kl']:.2f}", one["sentiment"]))
    for one in found["seeds"]:
        kl = f"{one['kl']['mean']:.2f} [{one['kl']['low']:.2f}, {one['kl']['high']:.2f}]"
        lines.append(row(f"PPO, seed {one['seed']}", kl, one["sentiment"]))
    return list(markdown.table(["policy", "KL from the base (nats)", "sentiment (held-out)"], lines, str))


def draw(found: dict[str, Any], path: Path) -> None:
    """Plot sentiment over KL: best-of-n, the updates of each seed, and its final policy on held-out openings."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "rlhf"  # equal numbers give equal bytes
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    best = found["best_of_n"]
    axes.plot([one["kl"] for one in best], [one["sentiment"]["mean"] for one in best], "o-", color="#444444", zorder=3)
    for one in best:
        axes.annotate(f"n={one['n']}", (one["kl"], one["sentiment"]["mean"]), (4, -11), textcoords="offset points")
    axes.plot([], [], "o-", color="#444444", label="best of n samples of the base")
    for color, one in zip(("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00") * 9, found["seeds"], strict=False):
        curve = one["curve"]
        axes.plot([at["kl"] for at in curve], [at["sentiment"] for at in curve], "-", color=color, alpha=0.45, lw=1)
        axes.errorbar(
            one["kl"]["mean"], one["sentiment"]["mean"], fmt="s", color=color, capsize=3, zorder=4,
            yerr=whiskers(one["sentiment"]), xerr=whiskers(one["kl"]),
            label=f"PPO, seed {one['seed']}: updates and held-out result",
        )  # fmt: skip
    axes.set(xlabel="KL from the base (nats per continuation)", ylabel="mean VADER sentiment", xlim=(-0.3, None))
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def whiskers(found: dict[str, float]) -> list[list[float]]:
    """Return the distances from the mean of an interval to its lower and upper end."""
    return [[found["mean"] - found["low"]], [found["high"] - found["mean"]]]


def show(found: dict[str, Any]) -> None:
    print("\n".join(table(found)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("overrides", nargs="*", help="settings for every run, e.g. stage.kl_coef=0.1")
    parser.add_argument("--show", action="store_true", help="print the stored results and run nothing")
    arguments = parser.parse_args()
    if arguments.show:
        return show(json.loads(RESULT.read_text(encoding="utf-8")))
    folders = [os.environ.get(name) for name in ("RLHF_TEST_MODELS", "RLHF_TEST_DATA")]
    if None in folders:
        sys.exit(
            "RLHF_TEST_MODELS and RLHF_TEST_DATA must name the folders of the models and the data: see docs/results.md"
        )
    if importlib.util.find_spec("vaderSentiment") is None:
        sys.exit("this benchmark needs VADER: pip install 'rlhf[sentiment]'")
    started = time.monotonic()
    model, stories = Path(folders[0], "stories15M"), Path(folders[1], "text", "tinystories_sample.jsonl.gz")
    train, held_out = openings(stories)
    prompts = Path("checkpoints", RUNS, "openings.jsonl")
    prompts.parent.mkdir(parents=True, exist_ok=True)
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in train), encoding="utf-8")
    runs = {seed: run_seed(seed, model, prompts, arguments.overrides) for seed in arguments.seeds}
    measure = Measure(model, held_out)
    found = measure_base(measure, model)
    found["seeds"] = [measure_seed(measure, seed, run) for seed, run in runs.items()]
    show(found)
    found["command"] = " ".join(["python -m benchmarks.ppo_sentiment", *sys.argv[1:]])
    found["machine"] = {
        "date": date.today().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "python": platform.python_version(),
        "seconds": round(time.monotonic() - started, 1),
    }
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if importlib.util.find_spec("matplotlib") is None:
        print("no figure is drawn: pip install matplotlib")
    else:
        draw(found, FIGURE)


if __name__ == "__main__":
    main()
