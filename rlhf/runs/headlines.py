"""The main metrics of each stage and their labels, for progress bars, summaries and the tree of runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.console import duration

LABELS = {  # metric in metrics.jsonl or run.json -> its label, or its text with {n}, and {s} for the plural
    "train/loss": "train loss",
    "train/accuracy": "train accuracy",
    "train/rewards/accuracies": "train accuracy",
    "eval/loss": "held-out loss",
    "eval/accuracy": "held-out accuracy",
    "eval/mean_token_accuracy": "held-out token accuracy",
    "eval/rewards/accuracies": "held-out accuracy",
    "eval/rewards/margins": "margin",
    "objective/scores": "reward",
    "objective/kl": "KL",
    "objective/gold": "gold",
    "val/ended": "EOS rate",
    "gold": "held-out gold",
    "score": "held-out reward",
    "kl": "held-out KL",
    "win_rate": "win rate vs start",
    "rounds": "{n} round{s}",
    "test/accuracy": "test accuracy",
    "benchmark/score": "benchmark score",
    "test/ece": "ECE",
    "test/kappa": "Cohen's kappa",
    "ended": "EOS rate",
    "models": "{n} model{s}",
    "error": "relative error",
    "steps": "{n} step{s}",
    "responses": "{n} response{s}",
    "rows": "{n} row{s}",
    "leaks": "{n} prompt{s} in both train and held-out",
    "preferences": "{n} pair{s} written",
    "ties": "{n} tie{s} dropped",
    "no_verdict": "{n} skipped",
    "files": "{n} file{s}",
    "bytes": "{n} byte{s}",
    "kl_per_token": "KL per token",
    "same_answer": "equal greedy answers",
    "score_difference": "largest difference of scores",
    "jobs": "{n} job{s}",
    "unfinished": "{n} unfinished",
    "laws": "{n} law{s} fitted",
    "kl_target": "stage.kl_target",
    "check/gold": "gold with it",
}
PROGRESS = {  # most important first: a narrow terminal shows only the first ones
    "base": ("eval/loss", "train/loss"),
    "sft": ("eval/loss", "train/loss"),
    "reward": ("eval/accuracy", "eval/loss", "train/loss", "train/accuracy"),
    "dpo": ("eval/rewards/accuracies", "eval/rewards/margins", "eval/loss", "train/loss", "train/rewards/accuracies"),
    "kto": ("eval/rewards/accuracies", "eval/rewards/margins", "eval/loss", "train/loss", "train/rewards/accuracies"),
    "ppo": ("objective/scores", "objective/kl", "val/ended", "objective/gold"),
}
RESULTS = {  # of a finished run; of several keys the first that was measured
    "base": (("eval/loss",), ("steps",)),
    "sft": (("eval/loss",), ("eval/mean_token_accuracy", "steps")),
    "reward": (("test/accuracy",), ("test/ece",)),
    "evaluate_reward": (("test/accuracy", "benchmark/score"), ("test/ece", "test/kappa")),
    "dpo": (("eval/rewards/accuracies",), ("eval/rewards/margins",)),
    "kto": (("eval/rewards/accuracies",), ("eval/rewards/margins",)),
    "ppo": (("gold", "score", "objective/scores"), ("kl", "objective/kl")),
    "merge": (("models",), ("error",)),
    "online_dpo": (("rounds",), ("gold", "score"), ("kl",), ("win_rate",)),
    "raft": (("gold", "score"), ("kl",), ("win_rate",)),
    "sample": (("responses",), ("ended",)),
    "label": (("preferences",), ("ties",), ("no_verdict",)),
    "inspect": (("rows",), ("leaks",)),
    "publish": (("files",), ("bytes",)),
    "export": (("kl_per_token", "score_difference"), ("same_answer",)),
    "sweep": (("jobs",), ("unfinished",)),
    "ladder": (("jobs",), ("unfinished",)),
    "overoptimize": (("laws",), ("kl_target",), ("check/gold",)),
}
OPENED = {  # the file or folder of a run that a person opens first, unless it is the run's own
    "compare": "report.html", "inspect": "report.md", "reward": "report.md", "evaluate_reward": "report.md",
    "sample": "responses.jsonl", "label": "preferences.jsonl", "publish": "bundles", "sweep": "leaderboard.md",
    "ladder": "ladder.md", "overoptimize": "overoptimize.md",
}  # fmt: skip
WIDTH = 80  # columns of a terminal
JUDGES = {"gold": "gold", "reward": "reward model", "judge": "judge"}


def labeled(metrics: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Return those of ``keys`` that were measured, each as its label and its value."""
    return [_text(LABELS[key], metrics[key]) for key in keys if key in metrics]


def _text(label: str, value: float) -> str:
    return label.format(n=f"{value:,.0f}", s="" if value == 1 else "s") if "{" in label else f"{label} {value:.3g}"


def progress(stage: str, metrics: Mapping[str, Any]) -> list[str]:
    """Return the metrics of a running stage, most important first."""
    return labeled(metrics, PROGRESS[stage])


def results(manifest: Mapping[str, Any]) -> list[str]:
    """Return the numbers that matter of a finished run: two in most stages."""
    stage, metrics = manifest["stage"], manifest["metrics"]
    if stage == "compare":
        return _win_rates(metrics, manifest["settings"]["stage"].get("reference", "the reference"))
    found = [next((key for key in keys if key in metrics), "") for keys in RESULTS.get(stage, ())]
    return labeled(metrics, [key for key in found if key])


def fallen(fall: Mapping[str, Any]) -> str:
    """Return a sentence about one of ``falls`` in run.json: whether and when a reward fell while the score rose."""
    name = fall["name"].partition("/")[2]
    change = f"best {fall['best']:.3g} at update {fall['peak']}, last {fall['last']:.3g}"
    fell = "did not fall" if fall["update"] is None else f"fell at update {fall['update']}"
    return f"{name}: {fell} while the score rose ({change})"


def _win_rates(metrics: Mapping[str, float], reference: str) -> list[str]:
    """Return the two best models of a comparison, by the gold reward if there is one."""
    for judge, name in JUDGES.items():
        start = f"win_rate/{judge}/"
        rates = {key.removeprefix(start): rate for key, rate in metrics.items() if key.startswith(start)}
        if rates:
            best = sorted(rates.items(), key=lambda one: -one[1])[:2]
            return [f"win rate vs {reference} ({name}): {' and '.join(f'{model} {rate:.2f}' for model, rate in best)}"]
    return []


def ending(directory: Path, manifest: Mapping[str, Any], title: str | None = None, seconds: float | None = None) -> str:
    """Return where the result of a stage is, its numbers and how long it took: on one line if it fits."""
    stage = manifest["stage"]
    parts = [*results(manifest), duration(manifest["seconds"] if seconds is None else seconds)]
    place, numbers = f"{title or stage}: {directory / OPENED.get(stage, '')}", ", ".join(parts)
    line = f"{place} ({numbers})"
    return line if len(line) <= WIDTH else f"{place}\n  {numbers}"
