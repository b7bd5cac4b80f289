"""The numbers of each stage that a person sees, with their labels: while it runs, at its end, in the tree of runs."""

from collections.abc import Mapping
from typing import Any

LABELS = {  # metric in metrics.jsonl or run.json -> its label on a terminal
    "train/loss": "train loss",
    "train/accuracy": "train accuracy",
    "train/rewards/accuracies": "train accuracy",
    "eval/loss": "held-out loss",
    "eval/accuracy": "held-out accuracy",
    "eval/mean_token_accuracy": "held-out token accuracy",
    "eval/rewards/accuracies": "held-out accuracy",
    "eval/rewards/margins": "held-out margin",
    "objective/scores": "reward",
    "objective/kl": "KL",
    "objective/gold": "gold",
    "val/ended": "EOS rate",
    "gold": "held-out gold",
    "score": "held-out reward",
    "kl": "held-out KL",
    "test/accuracy": "test accuracy",
    "test/ece": "ECE",
    "ended": "EOS rate",
    "tokens": "tokens",
}
PROGRESS = {  # in the order of importance: a narrow terminal has the first ones
    "base": ("eval/loss", "train/loss"),
    "sft": ("eval/loss", "train/loss"),
    "reward": ("eval/accuracy", "eval/loss", "train/accuracy", "train/loss"),
    "dpo": ("eval/rewards/accuracies", "eval/rewards/margins", "eval/loss", "train/rewards/accuracies", "train/loss"),
    "ppo": ("objective/scores", "objective/kl", "val/ended", "objective/gold"),
}


def labeled(metrics: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    """Return those of ``keys`` that were measured, as ``label value``."""
    return [f"{LABELS[key]} {metrics[key]:.3g}" for key in keys if key in metrics]


def progress(stage: str, metrics: Mapping[str, Any]) -> list[str]:
    """Return the metrics of a stage that is running, most important first."""
    return labeled(metrics, PROGRESS[stage])
