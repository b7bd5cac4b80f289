"""Two-step instructions and lists."""

from rlhf.almanac.facts import facts
from rlhf.almanac.items import find
from rlhf.almanac.responses import render
from rlhf.almanac.steps import LISTS, TWO_STEPS

PERU = next(fact for fact in facts("capitals") if fact.name == "Peru")


def test_the_steps_are_answered_in_the_order_asked() -> None:
    for relation in TWO_STEPS:
        first, second = relation.asks
        assert relation.answer.index(f"{{{first}}}") < relation.answer.index(f"{{{second}}}")


def test_a_held_out_order_is_the_reverse_of_a_trained_one() -> None:
    trained = {relation.asks for relation in TWO_STEPS if relation.split == "train"}
    held_out = {relation.asks: relation.split for relation in TWO_STEPS if relation.split != "train"}
    assert held_out == {("number", "symbol"): "test", ("continent", "capital"): "validation"}
    assert {asks[::-1] for asks in held_out} <= trained


def test_an_answer_in_two_steps() -> None:
    item = find("First give the capital of Chile, then its continent.")
    assert item.format == "two_steps"
    assert render(item, PERU) == "The capital of Peru is Lima. It is in South America."


def test_an_answer_as_a_list() -> None:
    assert {relation.format for relation in LISTS} == {"list"}
    item = find("List the capital and the continent of Chile.")
    assert render(item, PERU) == "- Lima\n- South America"
