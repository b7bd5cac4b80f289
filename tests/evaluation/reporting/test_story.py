"""The story of a comparison: its verdict, headlines, changes, losses and typical prompt."""

import pytest

from rlhf.evaluation.comparison.comparison import Comparison
from rlhf.evaluation.reporting import story
from rlhf.evaluation.statistics.metrics import Estimate
from tests.evaluation.making import comparison, whole


def scored(**scores: list[list[float]]) -> Comparison:
    """Return a comparison of stages with these gold rewards, (B, K); the first is the parent of the others."""
    names, count = tuple(scores), len(next(iter(scores.values())))
    made = comparison([f"prompt {i}" for i in range(count)], names)
    for name, values in scores.items():
        made.answers[name].scores = {"gold": values}
        made.answers[name].texts = [[f"{name} {i} {j}" for j in range(len(of))] for i, of in enumerate(values)]
    made.previous = {name: None if name == names[0] else names[0] for name in names}
    return made


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({}, []),
        (
            {"dpo": (0.73, 0.69, 0.77)},
            ["DPO responds best: better than SFT in 73 of 100 comparisons, between 69 and 77."],
        ),
        (
            {"dpo": (0.52, 0.47, 0.57)},
            ["No stage is surely better than SFT: DPO is better than SFT in 52 of 100 comparisons, between 47 and 57."],
        ),
        (
            {"dpo": (0.4, 0.3, 0.45)},
            ["SFT responds best: the next, DPO, is better than SFT in 40 of 100 comparisons, between 30 and 45."],
        ),
    ],
)  # fmt: skip
def test_the_verdict_is_as_sure_as_the_interval(rates: dict[str, tuple[float, float, float]], said: list[str]) -> None:
    made = scored(sft=[[1.0]], dpo=[[2.0]])
    for name, values in rates.items():
        made.metrics[name]["win_rate/gold"] = Estimate(*values)
    assert story.verdict(made) == said


def test_the_best_two_stages_are_compared_with_each_other() -> None:
    made = scored(sft=[[0.0]] * 4, dpo=[[3.0]] * 4, ppo=[[2.0]] * 3 + [[4.0]])
    made.metrics["dpo"]["win_rate/gold"] = Estimate(0.9, 0.8, 1.0)
    made.metrics["ppo"]["win_rate/gold"] = Estimate(0.8, 0.7, 0.9)
    assert story.verdict(made)[1].startswith(
        "It is not surely better than the next: it is better than PPO in 75 of 100"
    )
    made.answers["ppo"].scores["gold"][3] = [2.0]
    assert story.verdict(made)[1] == "It is better than PPO in 100 of 100 comparisons, between 100 and 100."


def test_every_stage_has_three_numbers() -> None:
    made = whole()
    for name, key in {"base": "win_rate/gold", "sft": "win_rate_previous/gold", "dpo": "win_rate/gold"}.items():
        made.metrics[name] |= {key: Estimate(0.7, 0.6, 0.8), "correct": Estimate(0.5, 0.4, 0.6)}
        made.metrics[name]["length"] = Estimate(7.0, 6.0, 8.0)
    words = {name: [found.words for found in story.headlines(made, name)] for name in ("base", "sft", "dpo")}
    assert words == {
        "base": ["better than SFT", "correct", "tokens per response"],
        "sft": ["better than base", "correct", "tokens per response"],
        "dpo": ["better than SFT", "correct", "KL to SFT (nats)"],
    }
    best = story.headlines(made, "dpo")
    assert (best[0].value, best[0].bounds, best[0].share) == ("70 of 100", "between 60 and 80", Estimate(0.7, 0.6, 0.8))
    assert (best[2].value, best[2].bounds, best[2].share) == ("1.00", "between 0.80 and 1.20", None)


def test_losses_are_those_to_the_parent_with_the_largest_first() -> None:
    made = scored(sft=[[2.0, 2.0, 2.0], [1.0, 1.0, 1.0], [3.0, 1.0, 2.0]], ppo=[[1.0, 1.0, 1.0], [2.0] * 3, [0.0] * 3])
    assert story.gaps(made, "ppo", "gold") == [-1.0, 1.0, -2.0]
    assert story.losses(made, "ppo") == [
        story.Loss("prompt 2", -2.0, "ppo 2 1", "sft 2 2"), story.Loss("prompt 0", -1.0, "ppo 0 1", "sft 0 1"),
    ]  # fmt: skip


def test_changes_are_the_win_rates_over_the_parent_by_kind() -> None:
    made = scored(sft=[[1.0]] * 6, ppo=[[2.0], [1.0], [0.0]] * 2)
    found = story.changes(made, "task")
    assert {kind: shares["ppo"].mean for kind, shares in found.items()} == {"task 0": 1.0, "task 1": 0.5, "task 2": 0.0}
    assert story.changes(made, "format") == {}


def test_a_judge_without_scores_is_followed() -> None:
    made = scored(sft=[[1.0], [1.0]], ppo=[[1.0], [1.0]])
    for answers in made.answers.values():
        answers.scores.clear()
    assert story.main_judge(made) == ""
    assert story.judged(made) == []
    made.answers["ppo"].preferences = {"sft": [[0.0], [None]]}
    assert story.main_judge(made) == "judge"
    assert story.gaps(made, "ppo", "judge") == [-0.5, None]
    assert [loss.prompt for loss in story.losses(made, "ppo")] == ["prompt 0"]


def test_the_typical_prompt_has_different_responses_with_average_scores() -> None:
    made = scored(sft=[[0.0], [1.0], [2.0], [1.0]], ppo=[[3.0], [2.0], [1.0], [2.0]])  # means 1 and 2
    assert story.typical(made) == (1, {"sft": 0, "ppo": 0})
    made.answers["ppo"].texts[1] = made.answers["sft"].texts[1]  # does not show a difference
    assert story.typical(made)[0] == 3
    made.answers["sft"].texts[3] = [""]  # shows nothing
    assert story.typical(made)[0] == 0
