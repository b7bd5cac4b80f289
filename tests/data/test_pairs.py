"""Pairs of ranked responses, worked by hand."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.config import Pairing, Rankings, Ties
from rlhf.data.pairs import SAME, TIED, UNCLEAR, Ranked, Rated, Waiting, pairs
from tests.conftest import composed

PAIRING: Pairing = replace(composed("stage=dpo").data.pairing, rankings=Rankings.all, ties=Ties.drop)
THREE = Ranked("?", [("b", 1.0), ("a", 3.0), ("c", 0.0)], graded=True)


@pytest.mark.parametrize(
    ("rankings", "expected"),
    [
        (Rankings.all, [("a", "b", 2.0), ("a", "c", 3.0), ("b", "c", 1.0)]),
        (Rankings.best, [("a", "b", 2.0), ("a", "c", 3.0)]),
        (Rankings.best_worst, [("a", "c", 3.0)]),
    ],
)
def test_the_pairs_of_three_responses(rankings: Rankings, expected: list[tuple[str, str, float]]) -> None:
    found = pairs(THREE, replace(PAIRING, rankings=rankings), Counter())
    assert [(row["chosen"], row["rejected"], row["margin"]) for row in found] == expected
    assert THREE.best() == "a"


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 4)), max_size=6), st.sampled_from(Rankings))
def test_a_prompt_counts_once_and_nothing_is_lost(responses: list[tuple[str, int]], rankings: Rankings) -> None:
    left_out: Counter[str] = Counter()
    ranked = Ranked("?", [(text, float(score)) for text, score in responses], graded=True)
    found = pairs(ranked, replace(PAIRING, rankings=rankings), left_out)
    k = len(responses)
    compared = {"all": k * (k - 1) // 2, "best": max(k - 1, 0), "best_worst": int(k > 1)}[rankings.value]
    assert len(found) + left_out[SAME] + left_out[TIED] == compared
    assert all(row["margin"] > 0 and row["chosen"] != row["rejected"] for row in found)
    if len(found) > 1:
        assert sum(row["weight"] for row in found) == pytest.approx(1)


def test_a_tie_is_dropped_or_taken_in_both_directions() -> None:
    tied, left_out = Ranked("?", [("a", 1.0), ("b", 1.0)], graded=False), Counter()
    assert pairs(tied, PAIRING, left_out) == []
    assert left_out == {TIED: 1}
    both = pairs(tied, replace(PAIRING, ties=Ties.both), left_out)
    assert [(row["chosen"], row["rejected"], row["weight"]) for row in both] == [("a", "b", 0.5), ("b", "a", 0.5)]


def test_votes_below_the_ratio_are_counted() -> None:
    left_out: Counter[str] = Counter()
    assert pairs(THREE._replace(ratio=1.5), replace(PAIRING, score_ratio=2.0), left_out) == []
    assert left_out == {UNCLEAR: 1}


def test_a_thumb_up_waits_for_a_thumb_down_to_the_same_prompt() -> None:
    def thumb(prompt: str, completion: str, up: float) -> Rated:
        return Rated(prompt, completion, up, graded=False, demonstrates=bool(up))

    waiting, left_out = Waiting(), Counter()
    given_ = [thumb("?", "a", 1.0), thumb("?", "b", 1.0), thumb("!", "c", 0.0)]
    assert [waiting.match(one, PAIRING, left_out) for one in given_] == [[], [], []]
    assert len(waiting) == 3
    [row] = waiting.match(thumb("?", "d", 0.0), PAIRING, left_out)
    assert (row["chosen"], row["rejected"]) == ("a", "d")
    assert len(waiting) == 2
    assert not left_out
