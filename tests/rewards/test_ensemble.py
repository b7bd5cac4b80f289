import math

import pytest

from rlhf.errors import TrainingError
from rlhf.rewards import Ensemble, FixedNormalizer
from rlhf.rewards.protocol import RewardFunction


def constant(*scores: float) -> RewardFunction:
    return lambda prompts, completions: list(scores)


def test_by_hand() -> None:
    """0, 6: mean 3, deviation 3; 2, 2: mean 2, deviation 0."""
    members = [constant(0.0, 2.0), constant(6.0, 2.0)]
    scores, more = Ensemble(members, 0.5).detailed(["p", "p"], ["a", "b"])
    assert more == {"disagreement": [3, 0]}
    assert scores == [3 - 0.5 * 3, 2]
    assert Ensemble(members, 0.5)(["p", "p"], ["a", "b"]) == scores
    assert Ensemble(members, 0.0)(["p", "p"], ["a", "b"]) == [3, 2]


def test_three_members_have_the_deviation_of_a_population() -> None:
    """1, 2, 6: mean 3, squares 4 + 1 + 9."""
    found = Ensemble([constant(1.0), constant(2.0), constant(6.0)], 1.0)(["p"], ["a"])
    assert found == pytest.approx([3 - math.sqrt(14 / 3)])


def test_the_lowest_score_of_each_response_counts() -> None:
    """The worst member differs by response; the disagreement is reported all the same."""
    members = [constant(0.0, 2.0, 5.0), constant(6.0, -2.0, 5.0)]
    scores, more = Ensemble(members, None).detailed(["p"] * 3, ["a", "b", "c"])
    assert scores == [0, -2, 5]
    assert more == {"disagreement": [3, 2, 0]}
    stored = [FixedNormalizer(0.0, 1.0), FixedNormalizer(6.0, 2.0)]
    assert Ensemble(members, None, stored)(["p"] * 3, ["a", "b", "c"]) == [0, -4, -0.5]


def test_members_that_differ_by_a_constant_and_a_scale_agree_once_normalized() -> None:
    members = [constant(1.0, 3.0), constant(110.0, 130.0)]
    stored = [FixedNormalizer(2.0, 1.0), FixedNormalizer(120.0, 10.0)]
    assert max(Ensemble(members).detailed(["p", "p"], ["a", "b"])[1]["disagreement"]) > 50
    found = Ensemble(members, statistics=stored).detailed(["p", "p"], ["a", "b"])
    assert found == ([-1, 1], {"disagreement": [0, 0]})


def test_a_member_that_returns_no_number_is_named() -> None:
    with pytest.raises(TrainingError, match="member 1 of the ensemble"):
        Ensemble([constant(1.0), constant(math.nan)])(["p"], ["a"])
