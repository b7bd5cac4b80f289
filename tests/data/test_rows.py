import json

import pytest

from rlhf.data import rows
from rlhf.data.rows import RowError


def test_values_that_are_not_text_are_refused() -> None:
    assert rows.text({"a": "x"}, "a") == "x"
    with pytest.raises(RowError, match="field 'a' is missing"):
        rows.text({"a": None}, "a")
    with pytest.raises(RowError, match="field 'a' must be text, got int"):
        rows.text({"a": 1}, "a")
    with pytest.raises(RowError, match="half of a surrogate pair"):
        rows.text({"a": "\ud800"}, "a")


def test_a_message_may_use_the_names_of_sharegpt() -> None:
    assert rows.message({"from": "gpt", "value": "Hi"}, "f") == {"role": "assistant", "content": "Hi"}
    assert rows.message({"from": "observation", "value": "9 m"}, "f") == {"role": "tool", "content": "9 m"}
    found = rows.message({"from": "function_call", "value": '{"name": "look", "arguments": {"at": "oak"}}'}, "f")
    assert found == rows.message({"role": "assistant", "content": None, "tool_calls": [call("oak")]}, "f")


def call(tree: object) -> dict:
    return {"type": "function", "function": {"name": "look", "arguments": json.dumps({"at": tree})}}


def test_a_message_keeps_its_calls_its_reasoning_and_a_weight_of_zero() -> None:
    given = {"role": "assistant", "content": "Hi", "name": "Ann", "reasoning_content": "since", "id": 5}
    kept = {key: given[key] for key in ("role", "content", "name", "reasoning_content")}
    assert rows.message(given | {"weight": 1, "tool_calls": None}, "f") == kept
    assert rows.message(given | {"weight": 0}, "f") == kept | {"weight": 0}
    # Arguments are JSON text, so that their numbers are not rounded.
    exact = {"role": "assistant", "content": "", "tool_calls": [call(12345678901234567890123)]}
    assert "12345678901234567890123" in rows.message(exact, "f")["tool_calls"][0]["function"]["arguments"]
    assert not rows.is_blank([rows.message(exact, "f")])
    one, other = ([rows.message({**exact, "tool_calls": [call(tree)]}, "f")] for tree in ("oak", "elm"))
    assert rows.prompt_key({"prompt": one}) != rows.prompt_key({"prompt": other})


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"weight": 0.5}, r"field 'f.weight' must be 0 or 1, got 0.5"),
        ({"tool_calls": [{"function": {"arguments": "{}"}}]}, r"field 'f.tool_calls' must hold calls with a function"),
        (
            {"tool_calls": [{"function": {"name": "a", "arguments": "{"}}]},
            r"field 'f.tool_calls.arguments' must be JSON",
        ),
        ({"tool_calls": [{"function": {"name": "a", "arguments": "[1]"}}]}, "arguments' must be an object, got list"),
        ({"reasoning_content": 3}, "field 'f.reasoning_content' must be text, got int"),
    ],
)
def test_extras_that_cannot_be_read_are_refused(value: dict, complaint: str) -> None:
    with pytest.raises(RowError, match=complaint):
        rows.message({"role": "assistant", "content": "Hi"} | value, "f")


TOOLS = [{"name": "look", "parameters": {"at": None, "type": "object"}}]


def test_tools_are_definitions_or_their_json() -> None:
    wanted = '[{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]'
    assert rows.tools(TOOLS) == rows.tools(json.dumps(TOOLS)) == rows.tools(json.loads(wanted)) == wanted
    assert rows.tools(None) is rows.tools([]) is rows.tools("") is None
    with pytest.raises(RowError, match="field 'tools' must be JSON, got 'hammer'"):
        rows.tools("hammer")


ASK, SYSTEM = {"role": "user", "content": "Hi"}, {"role": "system", "content": "Be brief."}
BEFORE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({}, "Hi"),
        ({"context": "There is a lake."}, "Hi\n\nThere is a lake."),
        ({"system": None}, [ASK]),  # other rows have a text
        ({"system": "Be brief."}, [SYSTEM, ASK]),
        ({"history": [["a", "b"]], "system": "Be brief."}, [SYSTEM, *BEFORE, ASK]),
        ({"history": BEFORE}, [*BEFORE, ASK]),
        ({"context": BEFORE}, [*BEFORE, ASK]),
    ],
)
def test_columns_beside_a_prompt_are_part_of_it(row: dict, prompt: object) -> None:
    found = rows.in_context(row, {"prompt": "Hi", "completion": "Yes"})
    assert found["prompt"] == prompt
    assert found["completion"] == ("Yes" if isinstance(prompt, str) else [rows.assistant("Yes")])
    if not isinstance(prompt, str):
        assert rows.in_context(row, {"prompt": [ASK]})["prompt"] == prompt


def test_two_system_texts_are_refused_unless_they_are_equal() -> None:
    assert rows.in_context({"system": "Be brief."}, {"prompt": [SYSTEM, ASK]})["prompt"] == [SYSTEM, ASK]
    with pytest.raises(RowError, match="field 'system' differs from the system message"):
        rows.in_context({"system": "Be long."}, {"prompt": [SYSTEM, ASK]})


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("Hi", "must hold messages"),
        ({"role": "king", "content": "Hi"}, "role 'king'"),
        ({"role": ["user"], "content": "Hi"}, "role list"),
        ({"role": "user", "content": None}, r"field 'f.content' must be text, got NoneType"),
    ],
)
def test_values_that_are_not_messages_are_refused(value: object, complaint: str) -> None:
    with pytest.raises(RowError, match=complaint):
        rows.message(value, "f")


def test_a_conversation_has_at_least_one_message() -> None:
    with pytest.raises(RowError, match="empty conversation"):
        rows.conversation({"f": []}, "f")
    with pytest.raises(RowError, match="must be a list of messages, got dict"):
        rows.conversation({"f": {}}, "f")


@pytest.mark.parametrize(("value", "number"), [(2, 2.0), ("2.5", 2.5), (None, None)])
def test_numbers(value: object, number: float | None) -> None:
    assert rows.number({"margin": value}, "margin") == number


@pytest.mark.parametrize("value", [True, [1], "many", float("nan"), float("inf"), 10**400])
def test_values_that_are_not_finite_numbers_are_refused(value: object) -> None:
    with pytest.raises(RowError, match="field 'margin' must be a"):
        rows.number({"margin": value}, "margin")


def test_rows_share_a_prompt_by_its_text_and_roles() -> None:
    one = {"prompt": [{"role": "user", "content": "Hi"}], "chosen": "a"}
    same = {"prompt": [{"content": "Hi", "role": "user"}], "chosen": "b"}
    other = {"prompt": [{"role": "system", "content": "Hi"}]}
    assert rows.prompt_key(one) == rows.prompt_key(same) != rows.prompt_key(other)
    assert rows.prompt_key({"text": "t"}) == "t"


def test_the_hash_is_the_same_on_every_machine() -> None:
    assert rows.unit_hash(0, "a") == 0x5F1AA0C8DAD9DC73 / 2**64  # printf '0\0a' | sha256sum
    assert rows.unit_hash(0, "a") != rows.unit_hash(1, "a")
