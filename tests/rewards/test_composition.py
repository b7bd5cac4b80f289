import json
import math
import random
from collections.abc import Sequence

import pytest
import torch

from rlhf.errors import RewardError, TrainingError
from rlhf.rewards import (
    CompositeReward,
    Ensemble,
    FixedNormalizer,
    LengthReward,
    RewardTerm,
    RunningNormalizer,
    Scorer,
)
from rlhf.rewards.spending import Spending
from tests.conftest import composed

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
    assert scored.details == {}


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
    others = [torch.tensor(0.0), torch.tensor([2.0, 10.0]), torch.tensor(20.0)]  # the first: it did not fail
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


def some(*scores: float | None) -> RewardTerm:
    return RewardTerm(lambda prompts, completions: list(scores), 2.0)


def test_a_term_that_does_not_apply_to_a_row_is_left_out_of_its_sum() -> None:
    scored = CompositeReward({"a": some(1, None, None), "b": some(None, 3, 4), "c": some(5, 6, None)}).score(
        PROMPTS, TEXTS
    )
    assert scored.totals == [12.0, 18.0, 8.0]
    assert scored.raw == {"a": [1, None, None], "b": [None, 3, 4], "c": [5, 6, None]}


def test_rows_without_a_score_are_left_out_of_the_statistics() -> None:
    """The running statistics of 1 and 3: mean 2, deviation sqrt(2). A term that applies to no row has no metrics."""
    running = RunningNormalizer()
    some_rows = RewardTerm(lambda p, c: [1, None, 3], 1.0, running)
    none = RewardTerm(lambda p, c: [None] * 3, 1.0, RunningNormalizer())
    scorer = Scorer(CompositeReward({"some": some_rows, "none": none, "all": RewardTerm(words, 0.0)}))
    root = math.sqrt(2)
    assert scorer(PROMPTS, TEXTS) == pytest.approx([-1 / root, 0, 1 / root])
    assert (running.count, running.mean) == (2, 2)
    assert scorer.state_dict()["none"] == {"count": 0.0, "mean": 0.0, "squares": 0.0}
    found = scorer.metrics()
    assert found["reward/some"] == 2.0
    assert found["reward/some_std"] == 1.0
    assert not any("none" in name for name in found)


def test_a_row_that_no_term_scores_is_named() -> None:
    reward = CompositeReward({"a": some(1, None, None), "b": some(1, 2, None)})
    with pytest.raises(TrainingError, match=r"no term.*row 2 \(prompt 'p', response 'c c c'\)"):
        reward(PROMPTS, TEXTS)
    with pytest.raises(TrainingError, match="the gold reward returned None for row 1"):
        Scorer(words, lambda p, c: [1.0, None, 2.0])(PROMPTS, TEXTS)


def test_every_rank_raises_before_statistics_change_if_a_reward_fails_on_one() -> None:
    running = RunningNormalizer()
    terms = {"a": RewardTerm(words, 1.0, running), "b": RewardTerm(lambda p, c: [math.nan] * 3)}
    with pytest.raises(RewardError, match="the reward 'b' scored row 0"):
        Scorer(CompositeReward(terms))(PROMPTS, TEXTS)
    assert running.count == 0
    healthy = Scorer(CompositeReward({"a": RewardTerm(words, 1.0, running)}), over_ranks=lambda x: x + 1)
    with pytest.raises(RewardError, match="another rank"):
        healthy(PROMPTS, TEXTS)
    assert running.count == 0


def test_a_response_that_a_judge_does_not_score_has_no_total_unless_another_term_applies() -> None:
    class Judge:
        spending = Spending(composed("stage=label").judge)

        def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float | None]:
            self.spending.ask(len(completions))
            return [None if text == "a" else 1.0 for text in completions]

    judge = Judge()
    assert CompositeReward({"j": RewardTerm(judge)})(PROMPTS, TEXTS) == [None, 1.0, 1.0]
    assert CompositeReward({"j": RewardTerm(judge), "w": RewardTerm(words)})(PROMPTS, TEXTS) == [1.0, 3.0, 4.0]
    scorer = Scorer(CompositeReward({"j": RewardTerm(judge)}), gold=judge, shadows={"w": words})
    assert scorer(PROMPTS, TEXTS) == [None, 1.0, 1.0]
    found = scorer.metrics()
    assert (found["reward/j"], found["objective/gold"], found["judge/asked"]) == (1.0, 1.0, 12)
    assert found["shadow/w"] == 2.0
    with pytest.raises(RewardError, match="the shadow 'w' returned 1 score for 3 completions"):
        Scorer(words, shadows={"w": lambda prompts, completions: [1.0]})(PROMPTS, TEXTS)
    state = json.loads(json.dumps(scorer.state_dict()))
    judge.spending.settled["asked"] = 0
    scorer.load_state_dict(state)
    assert judge.spending["asked"] == 12
