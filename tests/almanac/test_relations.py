"""Relations: every phrasing can be filled in, and its answer has the values asked for."""

from string import Formatter

import pytest

from rlhf.almanac.facts import COLUMNS, TABLES
from rlhf.almanac.items import all_relations, asked_of, facts_of, sentence
from rlhf.almanac.relations import Relation, phrasings

RELATIONS = all_relations()
BY_NAME = {relation.name: relation for relation in RELATIONS}


def columns(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name}


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(RELATIONS)


@pytest.mark.parametrize("relation", RELATIONS, ids=list(BY_NAME))
def test_every_phrasing_and_answer_can_be_filled_in(relation: Relation) -> None:
    fact = asked_of(relation)[0]
    for template in (*(p for split in relation.phrasings.values() for p in split), relation.answer, relation.bare):
        assert "{" not in sentence(template, fact)
        assert sentence(template, fact)[0].isupper() or not sentence(template, fact)[0].isalpha()


@pytest.mark.parametrize("relation", RELATIONS, ids=list(BY_NAME))
def test_only_the_answer_contains_the_values_asked_for(relation: Relation) -> None:
    assert set(relation.asks) <= {name.removeprefix("a_") for name in columns(relation.answer)}  # {a_type}: "a planet"
    if relation.task != "extraction":  # its prompt contains the answer
        for split in relation.phrasings.values():
            for template in split:
                assert not columns(template) & set(relation.asks)


@pytest.mark.parametrize("relation", RELATIONS, ids=list(BY_NAME))
def test_a_question_about_a_row_names_it(relation: Relation) -> None:
    """Otherwise two rows of the table would lead to one prompt with two right answers."""
    if relation.scope == "row":
        for split in relation.phrasings.values():
            for template in split:
                prompts = {sentence(template, fact) for fact in facts_of(relation.table)}
                assert len(prompts) == len(facts_of(relation.table))
    else:
        assert not any(columns(template) for split in relation.phrasings.values() for template in split)


def test_the_bare_answer_has_only_the_values() -> None:
    peru = next(fact for fact in facts_of("capitals") if fact.name == "Peru")
    assert sentence(BY_NAME["capital"].bare, peru) == "Lima."
    assert sentence(BY_NAME["capital_then_continent"].bare, peru) == "Lima and South America."


def test_a_relation_without_columns_to_ask_for_declines() -> None:
    declining = {relation.name for relation in RELATIONS if relation.declines}
    assert declining == {relation.name for relation in RELATIONS if relation.task == "decline"}
    assert all(BY_NAME[name].pretence for name in declining)


def test_the_columns_exist() -> None:
    for relation in RELATIONS:
        if relation.table in TABLES:
            assert {*relation.asks, *relation.names} <= set(COLUMNS[relation.table])


def test_phrasings_by_split() -> None:
    found = phrasings("a", "b", test=("c",))
    assert found == {"train": ("a", "b"), "validation": (), "test": ("c",)}
