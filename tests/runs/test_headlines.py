from pathlib import Path

import pytest

from rlhf.runs import headlines
from tests.conftest import manifest


def test_every_metric_that_is_shown_has_a_label() -> None:
    for keys in headlines.PROGRESS.values():
        assert set(keys) <= set(headlines.LABELS)
    for groups in headlines.RESULTS.values():
        assert {key for keys in groups for key in keys} <= set(headlines.LABELS)


def test_training_and_held_out_numbers_are_distinguished() -> None:
    metrics = {"train/loss": 0.7, "train/logits/chosen": -2.4, "eval/loss": 0.8, "eval/rewards/accuracies": 0.84375}
    assert headlines.progress("dpo", metrics) == ["held-out accuracy 0.844", "held-out loss 0.8", "train loss 0.7"]
    for key, label in headlines.LABELS.items():
        if key.startswith("train/"):
            assert label.startswith("train ")
        assert "rlhf_reward" not in label


@pytest.mark.parametrize(
    ("stage", "metrics", "shown"),
    [
        ("ppo", {"gold": 0.5, "score": 3, "objective/scores": 2, "kl": 1}, ["held-out gold 0.5", "held-out KL 1"]),
        ("ppo", {"objective/scores": 2.0, "objective/kl": 0.1}, ["reward 2", "KL 0.1"]),
        ("base", {"eval/loss": 1.0, "steps": 1}, ["held-out loss 1", "1 step"]),
        ("label", {"preferences": 2, "ties": 1, "no_verdict": 0}, ["2 pairs written", "1 tie dropped", "0 skipped"]),
        ("inspect", {"rows": 19570, "leaks": 2}, ["19,570 rows", "2 prompts in both train and held-out"]),
        ("compare", {"win_rate/gold/dpo": 0.6, "win_rate/gold/ppo": 0.7, "win_rate/lc/gold/ppo": 0.9,
                     "win_rate/reward/ppo": 0.8, "win_rate/gold/old": 0.1},
         ["win rate vs sft (gold): ppo 0.70 and dpo 0.60"]),
        ("compare", {"win_rate/judge/dpo": 0.6}, ["win rate vs sft (judge): dpo 0.60"]),
        ("compare", {"ends/sft": 0.6}, []),
    ],
)  # fmt: skip
def test_results_by_hand(stage: str, metrics: dict, shown: list[str]) -> None:
    settings = manifest(stage)["settings"] | {"stage": {"reference": "sft"}}
    assert headlines.results(manifest(stage, metrics=metrics, settings=settings)) == shown


def test_the_last_line_says_where_what_and_how_long() -> None:
    found = manifest("dpo", metrics={"eval/rewards/accuracies": 0.75, "eval/rewards/margins": 0.1}, seconds=138)
    told = headlines.ending(Path("checkpoints/mine/dpo"), found)
    assert told == "dpo: checkpoints/mine/dpo (held-out accuracy 0.75, margin 0.1, 2.3 minutes)"
    found["metrics"]["eval/rewards/accuracies"] = 0.831
    found["metrics"]["eval/rewards/margins"] = 0.456
    told = headlines.ending(Path("checkpoints/almanac/dpo"), found)
    assert told == "dpo: checkpoints/almanac/dpo\n  held-out accuracy 0.831, margin 0.456, 2.3 minutes"
    found = manifest("inspect", seconds=2)
    assert headlines.ending(Path("x"), found, "progression", 7200) == "progression: x/report.md (2 hours)"
