"""Extraction and declining: relations that need no knowledge."""

from rlhf.almanac.items import all_relations, facts_of
from rlhf.almanac.reading import EXTRACTION, READINGS, SENTENCES, unknown_column

BY_NAME = {relation.name: relation for relation in all_relations()}


def test_a_held_out_phrasing_has_either_a_new_sentence_or_a_new_question() -> None:
    [city] = [relation for relation in EXTRACTION if relation.name == "find_city"]
    train, test = len(READINGS["train"]), len(READINGS["test"])
    told, new = len(SENTENCES["city"]["train"]), len(SENTENCES["city"]["test"])
    assert len(city.phrasings["train"]) == train * told
    assert len(city.phrasings["test"]) == train * new + test * told


def test_an_extraction_by_hand() -> None:
    assert (
        "Read: 'It rained in {capital} all week.' Which city is mentioned?" in BY_NAME["find_city"].phrasings["train"]
    )
    assert BY_NAME["find_city"].answer == "The city is {capital}."


def test_extraction_names_what_the_almanac_knows_and_what_it_does_not() -> None:
    names = {fact.name for fact in facts_of("names_country")}
    assert {"Peru", "Bhutan"} <= names
    assert {fact.name for fact in facts_of("unknown_country")} < names


def test_an_unknown_name_is_asked_for_as_a_known_one() -> None:
    assert BY_NAME["unknown_capital"].phrasings == BY_NAME["capital"].phrasings
    assert BY_NAME["unknown_winner"].answer == "Sorry, this almanac has no World Cup in {year}."
    assert BY_NAME["unknown_capital"].answer == "Sorry, {country} is not in this almanac."
    assert BY_NAME["unknown_winner"].asks == ()


def test_properties_that_are_not_recorded_are_held_out_whole() -> None:
    splits = {name: BY_NAME[f"unknown_{name}"].split for name in ("population", "flag", "anthem")}
    assert splits == {"population": "train", "flag": "validation", "anthem": "test"}
    assert unknown_column("colour").pretence == "The colour of {country} is {invented}."
