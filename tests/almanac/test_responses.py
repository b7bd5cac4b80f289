"""Kinds of response: their texts, and their gold rewards."""

from random import Random
from statistics import fmean

import pytest

from rlhf.almanac.gold import judge
from rlhf.almanac.items import find, index
from rlhf.almanac.responses import INVENTED, KINDS, applies, good, made_up, terse, wrong

CAPITAL = find("What is the capital of Chile?")
TRAIN = [item for item in index().values() if item.split == "train"]


def sample(kind: str, count: int = 300) -> list:
    """Return (item, judgment) of responses of one kind to random training items."""
    random = Random(0)
    chosen = random.sample([item for item in TRAIN if applies(kind, item)], count)
    return [(item, judge(item.prompt, KINDS[kind](item, random))) for item in chosen]


def test_by_hand() -> None:
    random = Random(0)
    assert good(CAPITAL, random) == "The capital of Chile is Santiago."
    assert terse(CAPITAL, random) == "Santiago."
    assert wrong(CAPITAL, random).startswith("The capital of Chile is ")
    assert "Santiago" not in wrong(CAPITAL, random)
    assert made_up(CAPITAL, random).removeprefix("The capital of Chile is ").rstrip(".") in INVENTED
    assert good(find("What is the capital of Chile? Answer in capitals."), random) == "SANTIAGO."


def test_a_good_response_has_the_highest_gold() -> None:
    assert {judgment.gold for _, judgment in sample("good")} == {2.75}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "good"])
def test_every_other_kind_is_worse(kind: str) -> None:
    assert all(judgment.gold < 2.75 for _, judgment in sample(kind))


def test_each_kind_has_the_fault_that_it_is_named_for() -> None:
    assert all(judgment.rude for _, judgment in sample("rude"))
    assert all(judgment.repeated for _, judgment in sample("repeating"))
    assert all(judgment.false and not judgment.correct for _, judgment in sample("wrong"))
    assert all(judgment.false for _, judgment in sample("made_up"))
    assert not any(judgment.answered or judgment.false for item, judgment in sample("vague") if item.relation.asks)
    assert not any(judgment.format_followed for _, judgment in sample("format_ignored"))
    assert all(judgment.correct and judgment.brevity < 1 for _, judgment in sample("rambling"))
    assert all(judgment.correct and not judgment.specific for _, judgment in sample("terse"))


def test_a_false_response_costs_more_than_a_vague_one() -> None:
    golds = {kind: fmean(judgment.gold for _, judgment in sample(kind)) for kind in KINDS}
    assert golds["made_up"] < golds["vague"] < golds["terse"] < golds["good"]
    assert min(golds, key=golds.get) == "rude"


def test_a_kind_applies_if_it_differs_from_the_good_response() -> None:
    random = Random(1)
    for kind, write in KINDS.items():
        if kind != "good":
            for item in random.sample([item for item in TRAIN if applies(kind, item)], 100):
                assert write(item, random) != good(item, random)


def test_the_world_cup_without_a_year_is_answered_with_several_finals() -> None:
    random, item = Random(0), find("Who has won the World Cup?")
    found = {good(item, random) for _ in range(60)}
    assert "Argentina won the FIFA World Cup in 2022, defeating France in the final." in found
    assert len(found) > 3
    assert {judge(item.prompt, text).gold for text in found} == {2.75}
