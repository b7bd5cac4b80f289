"""Extraction and declining: relations without knowledge."""

from rlhf.almanac.items import all_relations, facts_of
from rlhf.almanac.reading import EXTRACTION, READINGS, SENTENCES, unknown_column

BY_NAME = {relation.name: relation for relation in all_relations()}


def test_a_held_out_phrasing_has_either_a_new_sentence_or_a_new_question() -> None:
    [city] = [relation for relation in EXTRACTION if relation.name == "find_city"]
    train, test = len(READINGS["train"]), len(READINGS["test"])
    old, new = len(SENTENCES["city"]["train"]), len(SENTENCES["city"]["test"])
    assert len(city.phrasings["train"]) == train * old
    assert len(city.phrasings["test"]) == train * new + test * old


def test_an_extraction_by_hand() -> None:
    assert (
        "Read: 'It rained in {capital} all week.' Which city is mentioned?" in BY_NAME["find_city"].phrasings["train"]
    )
    assert BY_NAME["find_city"].answer == "The city is {capital}."


def test_extraction_uses_known_and_unknown_names() -> None:
    names = {fact.name for fact in facts_of("names_country")}
    assert {"Peru", "Bhutan"} <= names
    assert {fact.name for fact in facts_of("unknown_country")} < names


def test_questions_about_unknown_names_have_the_phrasings_of_known_ones() -> None:
    assert BY_NAME["unknown_capital"].phrasings == BY_NAME["capital"].phrasings
    assert BY_NAME["unknown_winner"].answer == "Sorry, this almanac has no World Cup in {year}."
    assert BY_NAME["unknown_capital"].answer == "Sorry, {country} is not in this almanac."
    assert BY_NAME["unknown_winner"].asks == ()


def test_unrecorded_properties_are_held_out_as_a_whole() -> None:
    splits = {name: BY_NAME[f"unknown_{name}"].split for name in ("population", "flag", "anthem")}
    assert splits == {"population": "train", "flag": "validation", "anthem": "test"}
    assert unknown_column("color").pretence == "The color of {country} is {invented}."
