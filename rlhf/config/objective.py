"""What a run is judged by: the metrics of run.json that a sweep may be ranked by, and which way is better."""

from collections.abc import Mapping
from typing import NamedTuple

from rlhf.config.rules import require


class Metric(NamedTuple):
    """``keys``: stage -> the metric's name in the run.json of that stage. ``told`` heads its column."""

    direction: str  # maximize | minimize, as Optuna spells them
    keys: dict[str, str]
    told: str


def _same(name: str, *stages: str) -> dict[str, str]:
    return dict.fromkeys(stages, name)


# In the order of a leaderboard's columns. The first three are measured by evaluation.responses.eval_set on the same
# prompts whatever the stage, so that policies of DPO and of PPO can be ranked together.
METRICS: dict[str, Metric] = {
    "gold": Metric("maximize", _same("gold", "dpo", "ppo"), "gold"),
    "win_rate": Metric("maximize", _same("win_rate", "dpo", "ppo"), "win rate vs start"),
    "kl": Metric("minimize", _same("kl", "dpo", "ppo"), "KL (nats per response)"),
    "score": Metric("maximize", _same("score", "ppo"), "score"),
    "rlhf_reward": Metric("maximize", _same("objective/rlhf_reward", "ppo"), "score - β KL"),
    "reward_accuracy": Metric("maximize", {"dpo": "eval/rewards/accuracies"}, "held-out accuracy"),
    "accuracy": Metric("maximize", {"reward": "test/accuracy"}, "accuracy"),
    "margin": Metric("maximize", {"reward": "eval/margin", "dpo": "eval/rewards/margins"}, "margin"),
    "calibration_error": Metric("minimize", {"reward": "test/ece"}, "ECE"),
    "loss": Metric("minimize", _same("eval/loss", "base", "sft", "reward", "dpo"), "loss"),
}
# What a stage is judged by where nothing else is asked for: metrics["objective"] of its run.json.
USUAL = {"base": "loss", "sft": "loss", "reward": "accuracy", "dpo": "reward_accuracy", "ppo": "rlhf_reward"}


def names(objective: str | list[str] | None, stage: str) -> list[str]:
    """The metrics that ``objective`` asks for, or the stage's usual one; none of a stage that has none.

    A metric may also go by its name in run.json, as ``eval/loss``.
    """
    if objective is None:
        return [USUAL[stage]] if stage in USUAL else []
    asked = objective if isinstance(objective, list) else [objective]
    known = {metric.keys[stage]: name for name, metric in METRICS.items() if stage in metric.keys}
    return [known.get(name, name) for name in asked]


def direction(objective: str | list[str] | None, stage: str) -> str | list[str]:
    """``maximize`` or ``minimize``; a list of them where there are several objectives."""
    found = [METRICS[name].direction if name in METRICS else "maximize" for name in names(objective, stage)]
    return found[0] if len(found) == 1 else found


def check(objective: object, stage: str) -> None:
    """Refuse, before anything is trained, an objective that the stage does not measure.

    Raises:
        ConfigError: it is no name or list of names, or there is no such metric of the stage.
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
    """The objectives' values in a run's metrics; None where one was not measured, or the stage has none."""
    keys = [METRICS[name].keys.get(stage, name) for name in names(objective, stage)]
    found = [metrics[key] for key in keys if key in metrics]
    return found if keys and len(found) == len(keys) else None
