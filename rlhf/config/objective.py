"""The metrics of run.json that a sweep can be ranked by, and which direction is better."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rlhf.config.rules import require


class Metric(NamedTuple):
    """A metric. ``keys`` maps a stage to the metric's name in its run.json; ``told`` is the title of its column."""

    direction: str  # maximize | minimize, as in Optuna
    keys: dict[str, str]
    told: str


def _same(name: str, *stages: str) -> dict[str, str]:
    return dict.fromkeys(stages, name)


MEASURED = ("dpo", "kto", "ppo", "online_dpo", "raft")  # stages whose policy is measured; the first two have no reward
# In the order of the leaderboard's columns. evaluation.responses.eval_set measures the first three on the same prompts
# for every stage, so that DPO and PPO policies can be ranked together.
METRICS: dict[str, Metric] = {
    "gold": Metric("maximize", _same("gold", *MEASURED), "gold"),
    "win_rate": Metric("maximize", _same("win_rate", *MEASURED), "win rate vs start"),
    "kl": Metric("minimize", _same("kl", *MEASURED), "KL (nats per response)"),
    "score": Metric("maximize", _same("score", *MEASURED[2:]), "score"),
    "rlhf_reward": Metric("maximize", _same("objective/rlhf_reward", "ppo"), "score - β KL"),
    "reward_accuracy": Metric("maximize", _same("eval/rewards/accuracies", "dpo", "kto"), "held-out accuracy"),
    "accuracy": Metric("maximize", {"reward": "test/accuracy"}, "accuracy"),
    "margin": Metric("maximize", {"reward": "eval/margin"} | _same("eval/rewards/margins", "dpo", "kto"), "margin"),
    "calibration_error": Metric("minimize", {"reward": "test/ece"}, "ECE"),
    "loss": Metric("minimize", _same("eval/loss", "base", "sft", "reward", "dpo", "kto"), "loss"),
}
# The default objective of a stage: metrics["objective"] of its run.json.
USUAL = {
    "base": "loss", "sft": "loss", "reward": "accuracy", "dpo": "reward_accuracy", "kto": "reward_accuracy",
    "ppo": "rlhf_reward", "online_dpo": "win_rate", "raft": "win_rate",
}  # fmt: skip


def names(objective: str | list[str] | None, stage: str) -> list[str]:
    """Return the metrics named by ``objective``, or the stage's default one, if any.

    A metric can also be called by its name in run.json, such as ``eval/loss``.
    """
    if objective is None:
        return [USUAL[stage]] if stage in USUAL else []
    asked = objective if isinstance(objective, list) else [objective]
    known = {metric.keys[stage]: name for name, metric in METRICS.items() if stage in metric.keys}
    return [known.get(name, name) for name in asked]


def direction(objective: str | list[str] | None, stage: str) -> str | list[str]:
    """Return ``maximize`` or ``minimize``; a list of them for several objectives."""
    found = [METRICS[name].direction if name in METRICS else "maximize" for name in names(objective, stage)]
    return found[0] if len(found) == 1 else found


def check(objective: Any, stage: str) -> None:
    """Check that the stage measures the objective.

    Raises:
        ConfigError: it is not a name or list of names, or the stage has no such metric.
    """
    if objective is None:
        return
    asked = objective if isinstance(objective, list) else [objective]
    text = bool(asked) and all(isinstance(name, str) for name in asked)
    require(text, "objective", objective, "be null, the name of a metric, or a list of names")
    known = list(METRICS) if stage == "sweep" else [name for name, metric in METRICS.items() if stage in metric.keys]
    for name in names(objective, stage):
        rule = f"be one of {', '.join(known)} for stage={stage}" if known else f"be null for stage={stage}"
        require(name in known, "objective", name, rule)


def values(metrics: Mapping[str, float], objective: str | list[str] | None, stage: str) -> list[float] | None:
    """Return the objectives' values in a run's metrics; None if one is missing or the stage has no objective."""
    keys = [METRICS[name].keys.get(stage, name) for name in names(objective, stage)]
    found = [metrics[key] for key in keys if key in metrics]
    return found if keys and len(found) == len(keys) else None
