"""The 25 kinds of checks, each on responses that follow the instruction and on ones that do not."""

import sys

import pytest

from rlhf.errors import ConfigError, DataError
from rlhf.rewards.instructions import CHECKS, check_rows, followed, language_of, sentences

# Kind -> arguments, responses that follow, responses that do not.
CASES = {
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["This is VERY BIG.", "A WELL-KNOWN one"],
        ["This is VERY big."],
    ),
    "change_case:english_capital": (
        {},
        ["THIS WHOLE ANSWER IS IN ENGLISH AND IN CAPITALS."],
        ["This whole answer is in English.", "DIESE GANZE ANTWORT IST AUF DEUTSCH GESCHRIEBEN."],
    ),
    "change_case:english_lowercase": (
        {},
        ["this whole answer is in english and in small letters."],
        ["This whole answer is in English.", "diese ganze antwort ist auf deutsch geschrieben."],
    ),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say it."}, ["say it. Here it is."], ["Here it is. Say it."]),
    "combination:two_responses": ({}, ["one ****** two", "******one ****** two"], ["one ****** one", "one"]),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, ["[name], [age]"], ["[name], (age)"]),
    "detectable_content:postscript": (
        {"postscript_marker": "P.S."},
        ["Yours. P.S. Buy milk.", "p. s. buy milk"],
        ["Yours. PS buy milk"],
    ),
    "detectable_format:constrained_response": ({}, ["My answer is yes.", "Well. My answer is maybe."], ["Yes."]),
    "detectable_format:json_format": ({}, ['{"a": [1]}', '```json\n{"a": 1}\n```'], ["{a: 1}", 'Here: {"a": 1}']),
    "detectable_format:multiple_sections": (
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb"],
        ["SECTION 1\na\nSection 2\nb", "SECTION\nSECTION"],
    ),
    "detectable_format:number_bullet_lists": (
        {"num_bullets": 2},
        ["* one\n* two", "Say:\n- one\n  - two"],
        ["* one", "* one\n* two\n- three", "**one**\n**two**"],
    ),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2},
        ["*one* and *two*", "**both**  and *one*"],
        ["*one* and **", "*one\ntwo*"],
    ),
    "detectable_format:title": ({}, ["<<A day>>\nIt rained."], ["<A day>", "<< >>", "<<A\nday>>"]),
    "keywords:existence": ({"keywords": ["C++", "fast"]}, ["c++ is FAST"], ["C is fast"]),
    "keywords:forbidden_words": ({"forbidden_words": ["rock"]}, ["A rocket flew."], ["A Rock!"]),
    "keywords:frequency": (
        {"keyword": "war", "frequency": 2, "relation": "less than"},
        ["war"],
        ["war, War"],
    ),
    "keywords:letter_frequency": (
        {"letter": "#", "let_frequency": 2, "let_relation": "at least"},
        ["# a # b"],
        ["# a"],
    ),
    "language:response_language": (
        {"language": "de"},
        ["Das ist eine ganz gewöhnliche Antwort auf Deutsch.", "12"],
        ["This is an ordinary answer in English."],
    ),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"},
        ["One.\n\n'Weekend,' he said.", "One.\n\nweekend\n\n"],
        ["One.\n\nThe weekend.", "Weekend", "One.\n\nWeekend\n\nThree."],
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2},
        ["one\n***\ntwo", "***\none\n***\ntwo\n***"],
        ["one\n\ntwo", "one\n***\n\n***\ntwo", "one***two***three"],
    ),
    "length_constraints:number_sentences": (
        {"num_sentences": 2, "relation": "at least"},
        ["Dr. Smith went home. He slept!"],
        ["Dr. J. Smith slept at 3.5 p.m.", "One line\ntwo"],
    ),
    "length_constraints:number_words": (
        {"num_words": 3, "relation": "less than"},
        ["two words"],
        ["now three words"],
    ),
    "punctuation:no_comma": ({}, ["No pause here."], ["Well, no."]),
    "startend:end_checker": ({"end_phrase": "Anything else?"}, ['It is so. anything else?"'], ["Anything else? No."]),
    "startend:quotation": ({}, [' "All of it." '], ['"Some" of it', '"']),
}  # fmt: skip


def test_all_kinds_are_tested() -> None:
    assert set(CASES) == set(CHECKS)
    assert len(CHECKS) == 25


@pytest.mark.parametrize("kind", CASES)
def test_responses_that_follow_and_ones_that_do_not(kind: str) -> None:
    arguments, good, bad = CASES[kind]
    row = {"instruction_id_list": [kind], "kwargs": [arguments | {"of_another_kind": None}]}
    assert [followed(row, text) for text in good] == [[True]] * len(good)
    assert [followed(row, text) for text in bad] == [[False]] * len(bad)


def test_an_empty_response_follows_no_instruction() -> None:
    kinds = ["punctuation:no_comma", "keywords:forbidden_words"]
    row = {"instruction_id_list": kinds, "kwargs": [{}, {"forbidden_words": ["a"]}]}
    assert followed(row, " \n") == [False, False]
    assert followed(row, "an, a") == [False, False]
    assert followed(row, "an, b") == [False, True]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("No end", 1),
        ("One. Two? Three!", 3),
        ('He said "Stop." Then he left.', 2),
        ("Mr. A. B. Clark, Inc. is at 5.30. Go.", 2),
        ("A heading\n\nA sentence. And one more", 3),
        ("Wait... what?", 2),
        ("我来了。你好吗？", 2),
    ],
)
def test_sentences(text: str, count: int) -> None:
    assert len(sentences(text)) == count


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("keywords:rhymes", {}, "'keywords:rhymes', which is not one of"),
        ("keywords:existence", {"words": ["a"]}, "do not fit the instruction keywords:existence"),
        ("length_constraints:number_words", {"num_words": 3, "relation": "about"}, "'less than' or 'at least'"),
    ],
)
def test_invalid_instructions_are_reported_before_generation(kind: str, arguments: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_rows([{"prompt": "Q"}, {"instruction_id_list": [kind], "kwargs": [arguments]}])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(ConfigError, match="pip install langdetect"):
        language_of("some text")
