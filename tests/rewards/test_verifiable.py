"""Rewards that compare a completion with its row, by worked values."""

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.errors import ConfigError, TrainingError
from rlhf.rewards import ChoiceReward, ExactReward, InstructionReward, NumberReward, SchemaReward
from rlhf.rewards.verifiable import LETTERS, chosen, number_in

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


def rated(reward: Any, text: str, *values: Any) -> float | None:
    [score] = reward(["p"], [text], **{name: [value] for name, value in zip(reward.reads, values, strict=True)})
    return score


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("The  Cat!", "cat", 1), ("an apple, a day", "apple day", 1), ("theatre", "atre", 0),
        ("cat", ["dog", "cat"], 1), ("7", 7, 1), ("True", True, 1), ("", "x", 0),
        ("x", None, None), ("U.S.A", "usa", 1),
    ],
)  # fmt: skip
def test_exact_match_as_squad_defines_it(text: str, answer: Any, score: float | None) -> None:
    assert rated(ExactReward("answer"), text, answer) == score


def test_differences_that_count() -> None:
    assert rated(ExactReward("answer", None), "Cat", "cat") == 0
    assert rated(ExactReward("answer", ["case"]), "CAT", "cat") == 1
    assert rated(ExactReward("answer", ["case"]), "the cat", "cat") == 0
    assert rated(ExactReward("answer", ["whitespace"]), " a  cat ", "a cat") == 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 72.", "72"), ("1,234.5 dollars", "1234.5"), ("x = -7", "-7"), ("12-5", "5"),
        ("12 - 5 = 7", "7"), ("-$5", "-5"), ("$1,000,000", "1000000"), ("1e3", "1000"), (".5", "0.5"),
        ("−3 degrees", "-3"), ("1,2345", "2345"),
        ("none", None), ("", None), ("so 4.\n#### 18\n(of 20)", "18"), ("\\boxed{42}, not 43", "42"), ("72km", "72"),
        ("\\boxed{1{,}234}", "1234"), ("\\boxed{\\text{7}}", "7"), ("\\boxed{1} \\boxed{2}", "2"), ("####", None),
    ],
)  # fmt: skip
def test_the_number_of_a_text(text: str, number: str | None) -> None:
    assert number_in(text) == (None if number is None else Decimal(number))


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_a_number_is_read_back_however_it_is_written(x: Decimal) -> None:
    for text in (f"{x}", f"{x:,}", f"It is {x:,f}.", f"1, 2, {x}", f"\\boxed{{{x}}} of 3", f"#### {x}\n9"):
        assert number_in(text) == x


@given(st.text(max_size=200))
def test_any_response_has_a_score(text: str) -> None:
    assert rated(NumberReward("answer"), text, 7) in (0, 1)
    assert rated(ChoiceReward("answer", ["left", "right"]), text, "A") in (0, 1)
    assert rated(ExactReward("answer"), text, "7") in (0, 1)


def test_tolerances() -> None:
    assert rated(NumberReward("answer"), "0.30", 0.3) == 1
    assert rated(NumberReward("answer"), "9007199254740993", "9007199254740992") == 0, "more digits than a double has"
    assert rated(NumberReward("answer", absolute=0.1), "3.1", 3) == 1
    assert rated(NumberReward("answer", absolute=0.1), "3.2", 3) == 0
    assert rated(NumberReward("answer", relative=0.01), "99", "-100") == 0
    assert rated(NumberReward("answer", relative=0.01), "-99", "-100") == 1
    assert rated(NumberReward("answer"), "5", ["4", "He has 5"]) == 1
    assert rated(NumberReward("answer"), "it is 18", "16 - 3 - 4 = 9\n9 * 2 = 18\n#### 18") == 1
    assert rated(NumberReward("answer"), "18", None) is None


def test_the_number_after_a_pattern() -> None:
    reward = NumberReward("answer", after="(?i)answer:")
    assert rated(reward, "3 + 4\nAnswer: 7 (of 9)", 7) == 1
    assert rated(reward, "Answer: 1\nanswer: 7", 7) == 1
    assert rated(reward, "7", 7) == 0, "no match"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"), ("B.", "B"), ("(B) Paris", "B"), ("B) it is", "B"), ("The answer is C.", "C"),
        ("Answer: **D**", "D"),
        ("Not (A), so (B)", "B"), ("\\boxed{C}", "C"), ("I think\nB", "B"), ("answer: A, no, answer: B", "B"),
        ("A dog is here", None), ("the answer is A dog", None), ("answer is I'm not sure", None), ("", None),
    ],
)  # fmt: skip
def test_the_letter_that_a_response_selects(text: str, letter: str | None) -> None:
    assert chosen(text, list(LETTERS), []) == (None if letter is None else LETTERS.index(letter))


def test_options_by_letter_number_or_text() -> None:
    cities = ["London", "Paris", "New York", "York"]
    reward = ChoiceReward("answer", cities)
    for answer in ("B", "(b)".upper(), 1, "Paris", "paris"):
        assert rated(reward, "It is Paris.", answer) == 1
        assert rated(reward, "B", answer) == 1
        assert rated(reward, "Paris or London", answer) == 0
    assert rated(reward, "New York", "C") == 1, "the longest option within a response"
    row = ChoiceReward("answer", options_column="choices")
    assert rated(row, "D", 3, cities) == 1
    arc = {"text": ["ice", "fire"], "label": ["1", "2"]}
    assert rated(row, "The answer is 2", "2", arc) == rated(row, "fire", "2", arc) == 1
    assert rated(row, "A", None, cities) is None
    for answer, options in (("E", cities), (4, cities), ("Rome", cities), ("A", "x"), ("A", ["x"] * 27), (1.5, cities)):
        with pytest.raises(ValueError, match="option"):
            row.check(answer, options)
    boolean = ChoiceReward("answer", ["true", "false"])
    assert rated(boolean, "That is false.", False) == 1


def test_values_that_are_no_answer() -> None:
    for reward, value in (
        (ExactReward("a"), {"x": 1}), (ExactReward("a"), []), (ExactReward("a"), "The"), (NumberReward("a"), "many"),
        (NumberReward("a"), [1, "two"]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="answer"):
            reward.check(value)


class TestSchema:
    """JSON against a schema."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("jsonschema", reason="the package is an extra: pip install 'rlhf[jsonschema]'")

    @pytest.mark.parametrize(
        ("text", "score"),
        [
            ('{"age": 3}', 1), ('```json\n{"age": 3}\n```', 1), ('{"age": "3"}', 0), ("{}", 0), ('{"age": 3', 0),
            ("", 0),
            ("[" * 100_000, 0), ('{"age": ' + "9" * 5000 + "}", 0),
        ],
    )  # fmt: skip
    def test_a_response_fits_or_not(self, text: str, score: float, tmp_path: Path) -> None:
        (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
        assert rated(SchemaReward(str(tmp_path / "schema.json")), text) == score
        assert rated(SchemaReward(column="schema"), text, SCHEMA) == score
        assert rated(SchemaReward(column="schema"), text, json.dumps(SCHEMA)) == score

    def test_an_invalid_schema_is_refused(self, tmp_path: Path) -> None:
        for number, content in enumerate(('{"type": "nonsense"}', "{", "3")):
            (tmp_path / f"{number}.json").write_text(content)
            with pytest.raises(ConfigError, match=r"json_schema\.schema=.*is not a JSON schema"):
                SchemaReward(str(tmp_path / f"{number}.json"))
            with pytest.raises(ValueError, match="."):
                SchemaReward(column="s").check(content)
        with pytest.raises(ConfigError, match="is not a JSON schema"):
            SchemaReward(str(tmp_path / "absent.json"))

    def test_references_are_not_followed(self) -> None:
        with pytest.raises(TrainingError, match="cannot be resolved"):
            rated(SchemaReward(column="s"), "{}", {"$ref": "http://localhost/schema.json"})


def test_instructions_of_a_row() -> None:
    kinds, options = ["punctuation:no_comma", "keywords:existence"], [{}, {"keywords": ["cat"]}]
    assert rated(InstructionReward("all"), "a cat", kinds, options) == 1
    assert rated(InstructionReward("all"), "a dog", kinds, options) == 0
    assert rated(InstructionReward("share"), "a dog", kinds, options) == 0.5
    assert rated(InstructionReward("share"), "a dog", None, None) is None
    for wrong in ((["no:such"], [{}]), (kinds, [{}]), ("x", "y"), ([], []), (kinds[:1], [{"keywords": 3}])):
        with pytest.raises(ValueError, match=re.compile("instruction")):
            InstructionReward().check(*wrong)
