"""The main metrics of each stage and their labels, for progress bars, summaries and the tree of runs."""

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
PROGRESS = {  # most important first: a narrow terminal shows only the first ones
    "base": ("eval/loss", "train/loss"),
    "sft": ("eval/loss", "train/loss"),
    "reward": ("eval/accuracy", "eval/loss", "train/accuracy", "train/loss"),
    "dpo": ("eval/rewards/accuracies", "eval/rewards/margins", "eval/loss", "train/rewards/accuracies", "train/loss"),
    "ppo": ("objective/scores", "objective/kl", "val/ended", "objective/gold"),
}


def labeled(metrics: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    """Return the measured metrics among ``keys`` as ``label value``."""
    return [f"{LABELS[key]} {metrics[key]:.3g}" for key in keys if key in metrics]


def progress(stage: str, metrics: Mapping[str, Any]) -> list[str]:
    """Return the metrics of a running stage, most important first."""
    return labeled(metrics, PROGRESS[stage])
