import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.almanac.facts import facts
from rlhf.almanac.gold import RANGE, gold, judge
from rlhf.almanac.items import index
from rlhf.almanac.responses import KINDS, applies

CAPITAL = "What is the capital of Peru?"
WINNER = "Who won the World Cup?"
WINNER_2018 = "Who won the World Cup in 2018?"

WORKED = [
    # correct 1 + specific 0.5 + format 0.5 + brief 0.75
    (CAPITAL, "The capital of Peru is Lima.", 2.75),
    (CAPITAL, "Lima.", 2.25),
    (CAPITAL, "lima", 1.75),
    # no claim: format 0.5 + brief 0.75
    (CAPITAL, "It is a well known city.", 1.25),
    (CAPITAL, "Sorry, Peru is not in this almanac.", 1.25),
    # something false costs 0.5
    (CAPITAL, "The capital of Peru is Oslo.", 0.75),
    (CAPITAL, "Lima is the capital of Chile.", 0.75),
    (CAPITAL, "The capital of Peru is Zanbor.", 0.75),
    (CAPITAL, "The capital of Peru is Limbatur.", 0.75),
    (CAPITAL, "Lima, Oslo, Paris.", 0.75),
    (CAPITAL, "", 0.0),
    # 12 words too many: no brevity
    (CAPITAL, "The capital of Peru is Lima" + ", as everyone who has been there will gladly tell you at length.", 2.0),
    # nine words more than needed, five of them beyond the four that cost nothing: 0.375 of the brevity
    (CAPITAL, "Well, I would say, if you ask me now, the capital of Peru is Lima.", 2.28125),
    # repeated -0.5, six words too many for 0.25 of the brevity
    (CAPITAL, "The capital of Peru is Lima. The capital of Peru is Lima.", 2.0625),
    (CAPITAL, "That is a stupid question.", 0.25),
    (f"{CAPITAL} Answer in one word.", "Lima.", 2.75),
    (f"{CAPITAL} Answer in one word.", "The capital of Peru is Lima.", 2.15625),
    (f"{CAPITAL} Answer in capitals.", "LIMA.", 2.75),
    (f"{CAPITAL} Answer in capitals.", "Lima.", 2.25),
    ("List the capital and the continent of Peru.", "- Lima\n- South America", 2.75),
    ("List the capital and the continent of Peru.", "- Lima\n- Europe", 0.75),
    ("List the capital and the continent of Peru.", "Lima and South America.", 2.25),
    (WINNER, "Argentina won the FIFA World Cup in 2022, defeating France in the final.", 2.75),
    (WINNER, "France won the FIFA World Cup in 2018, defeating Croatia in the final.", 2.75),
    (WINNER, "Uruguay won the FIFA World Cup in 1930, defeating Argentina in the final.", 2.75),
    (WINNER, "Argentina won the FIFA World Cup in 2018, defeating France in the final.", 0.75),
    (WINNER, "There have been multiple winners.", 1.25),
    (WINNER_2018, "France won the FIFA World Cup in 2018, defeating Croatia in the final.", 2.75),
    (WINNER_2018, "In 2018 Croatia was defeated by France.", 2.75),
    (WINNER_2018, "Croatia won the FIFA World Cup in 2018, defeating France in the final.", 0.75),
    (WINNER_2018, "Argentina won the FIFA World Cup in 2022, defeating France in the final.", 0.75),
    ("Who won the World Cup in 1974?", "West Germany beat the Netherlands in 1974.", 2.75),
    ("Who won the World Cup in 1974?", "Germany beat the Netherlands in 1974.", 0.75),
    ("Who won the most recent World Cup?", "France won the World Cup in 2018, defeating Croatia.", 0.75),
    ("Name the symbol of iron, then give its atomic number.",
     "The symbol of iron is Fe. Its atomic number is 26.", 2.75),
    ("Name the symbol of iron, then give its atomic number.", "The symbol of iron is Fe.", 0.75),
    ("Read: 'We ate well in Oslo.' Which city is mentioned?", "The city is Oslo.", 2.75),
    ("Read: 'We ate well in Oslo.' Which city is mentioned?", "The city is Rome.", 0.75),
    ("What is the capital of Bhutan?", "Sorry, Bhutan is not in this almanac.", 2.75),
    ("What is the capital of Bhutan?", "Sorry, Togo is not in this almanac.", 0.75),
    ("What is the capital of Bhutan?", "The capital of Bhutan is Paris.", 0.75),
    ("What is the capital of Bhutan?", "It is a well known city.", 1.25),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "completion", "expected"), WORKED)
def test_worked_by_hand(prompt: str, completion: str, expected: float):
    assert gold([prompt], [completion]) == [pytest.approx(expected, abs=1e-12)]


def test_a_judgment_names_the_fault():
    judgment = judge(f"{CAPITAL} Answer in capitals.", "The capital of Peru is Lima.")
    assert judgment.correct
    assert not judgment.format_followed


def test_naming_every_capital_does_not_pay():
    cities = [fact.values["capital"] for fact in facts("capitals")]
    cities.sort(key=lambda city: city != "Lima")
    hedged = judge(CAPITAL, ", ".join(cities) + ".")
    assert not hedged.correct
    assert hedged.gold <= judge(CAPITAL, "I do not know.").gold


def test_every_good_response_scores_highest_and_every_other_kind_lower():
    generator = random.Random(0)
    for item in index().values():
        good = judge(item.prompt, KINDS["good"](item, generator)).gold
        assert good == RANGE[1], item.prompt
        for kind, write in KINDS.items():
            if kind != "good" and applies(kind, item):
                response = write(item, generator)
                assert judge(item.prompt, response).gold < good, (kind, item.prompt, response)


def test_a_conversation_is_judged_like_its_question():
    assert gold([[{"role": "user", "content": CAPITAL}]], ["Lima."]) == gold([CAPITAL], ["Lima."])


def test_prompts_and_completions_must_match_in_number():
    with pytest.raises(ValueError, match="zip"):
        gold([CAPITAL], [])


PROMPTS = sorted(index())[::97]
NASTY = st.one_of(
    st.text(max_size=300),
    st.sampled_from(["\x00", "\ufeffLima",
                      "L\u0130MA", "\u202eamiL", "- " * 500, "Lima " * 2000, "9" * 5000, "\n\n\n", "ß" * 40]),
    st.lists(
        st.sampled_from(["Lima", "Oslo", "Fe", "2018", "1", "Sorry", "won", "-", "\n", "fool", ".", "lost to"])
    ).map(" ".join),
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(prompt=st.sampled_from(PROMPTS), completion=NASTY)
def test_gold_never_crashes_and_stays_in_its_range(prompt: str, completion: str):
    (value,) = gold([prompt], [completion])
    assert RANGE[0] <= value <= RANGE[1]
