import json
import math
import random
from collections.abc import Sequence

import pytest
import torch

from rlhf.errors import TrainingError
from rlhf.rewards import CompositeReward, Ensemble, FixedNormalizer, LengthReward, RewardTerm, RunningNormalizer, Scorer

PROMPTS, TEXTS = ["p", "p", "p"], ["a", "b b", "c c c"]


def words(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    return [float(len(text.split())) for text in completions]


def test_weights_and_normalization_by_hand() -> None:
    """Words 1, 2, 3: normalized by (2, 0.5) -2, 0, 2; by their own statistics -1, 0, 1; too long by 0, 1, 2."""
    composition = CompositeReward(
        {
            "plain": RewardTerm(words),
            "stored": RewardTerm(words, 10.0, FixedNormalizer(2.0, 0.5)),
            "running": RewardTerm(words, -100.0, RunningNormalizer()),
            "brief": RewardTerm(LengthReward(max=1), 1000.0),
        }
    )
    expected = [1 - 20 + 100 - 0, 2 + 0 - 0 - 1000, 3 + 20 - 100 - 2000]
    scored = composition.score(PROMPTS, TEXTS)
    assert scored.totals == pytest.approx(expected)
    assert scored.raw == {"plain": [1, 2, 3], "stored": [1, 2, 3], "running": [1, 2, 3], "brief": [0, -1, -2]}
    assert scored.disagreement == {}


def test_a_term_that_returns_no_number_is_named() -> None:
    for wrong in ([1.0], [1.0, 2.0, math.nan], None):
        with pytest.raises(TrainingError, match="the reward 'mine'"):
            CompositeReward({"brief": RewardTerm(words), "mine": RewardTerm(lambda p, c, wrong=wrong: wrong)})(
                PROMPTS, TEXTS
            )


def test_running_statistics_are_the_state_and_survive_json() -> None:
    def new() -> CompositeReward:
        return CompositeReward(
            {
                "a": RewardTerm(words, 1.0, RunningNormalizer()),
                "b": RewardTerm(words, 1.0, FixedNormalizer(0.0, 1.0)),
                "c": RewardTerm(words),
            }
        )

    one, other = new(), new()
    one(PROMPTS, TEXTS)
    state = json.loads(json.dumps(one.state_dict()))
    assert state == {"a": {"count": 3.0, "mean": 2.0, "squares": 2.0}}
    other.load_state_dict(state)
    assert one(["p"], ["d d d d d d d"]) == other(["p"], ["d d d d d d d"]) != new()(["p"], ["d d d d d d d"])
    with pytest.raises(TrainingError, match="same rewards"):
        CompositeReward({"other": RewardTerm(words, 1.0, RunningNormalizer())}).load_state_dict(state)


def test_scores_are_reported_per_term_before_normalization() -> None:
    """1, 2, 3 have deviation sqrt(2/3). The members 1, 2, 3 and 3, 4, 5 have disagreement 1."""
    more = Ensemble([words, lambda p, c: [score + 2 for score in words(p, c)]], 3.0)
    terms = {"long": RewardTerm(words, 7.0, FixedNormalizer(9.0, 9.0)), "sure": RewardTerm(more, 0.1)}
    scorer = Scorer(CompositeReward(terms), gold=lambda p, c: [0.0, 0.0, 6.0])
    assert scorer(PROMPTS, TEXTS) == CompositeReward(terms)(PROMPTS, TEXTS)
    spread = math.sqrt(2 / 3)
    expected = {
        "reward/long": 2.0,
        "reward/long_std": spread,
        "objective/gold": 2.0,
        "objective/gold_std": math.sqrt(8),
    }
    expected |= {"reward/sure": 3 - 3.0, "reward/sure_std": spread, "reward/sure_disagreement": 1.0}
    assert scorer.metrics() == pytest.approx(expected)


def test_a_plain_function_has_no_separate_metrics() -> None:
    scorer = Scorer(words)
    assert scorer(PROMPTS, TEXTS) == [1, 2, 3]
    assert scorer.metrics() == scorer.state_dict() == {}
    scorer.load_state_dict({})


def test_metrics_are_over_all_ranks() -> None:
    """The other rank has two scores that sum to 10 and squares of 20 around the common mean, which is 16 / 5."""
    others = [torch.tensor([2.0, 10.0]), torch.tensor(20.0)]
    scorer = Scorer(CompositeReward({"long": RewardTerm(words)}), over_ranks=lambda x: x + others.pop(0))
    scorer(PROMPTS, TEXTS)
    squares = 20 + sum((score - 3.2) ** 2 for score in (1, 2, 3))
    assert scorer.metrics() == pytest.approx({"reward/long": 3.2, "reward/long_std": math.sqrt(squares / 5)})


def test_gold_does_not_advance_the_generator() -> None:
    def gold(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return torch.rand(len(completions)).tolist()

    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Scorer(words, gold)(PROMPTS, TEXTS)
    assert torch.equal(torch.rand(1), expected)


def test_gold_that_returns_no_number_is_named() -> None:
    with pytest.raises(TrainingError, match="the gold reward"):
        Scorer(words, lambda p, c: [random.random()])(PROMPTS, TEXTS)
