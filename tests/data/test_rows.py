import pytest

from rlhf.data import rows
from rlhf.data.rows import RowError


def test_text_is_told_from_what_is_not() -> None:
    assert rows.text({"a": "x"}, "a") == "x"
    with pytest.raises(RowError, match="field 'a' is missing"):
        rows.text({"a": None}, "a")
    with pytest.raises(RowError, match="field 'a' must be text, got int"):
        rows.text({"a": 1}, "a")
    with pytest.raises(RowError, match="half of a surrogate pair"):
        rows.text({"a": "\ud800"}, "a")


def test_a_message_may_use_the_names_of_sharegpt() -> None:
    assert rows.message({"from": "gpt", "value": "Hi"}, "f") == {"role": "assistant", "content": "Hi"}
    assert rows.message({"role": "user", "content": "Hi", "name": "Ann"}, "f") == {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("Hi", "must hold messages"),
        ({"role": "king", "content": "Hi"}, "role 'king'"),
        ({"role": ["user"], "content": "Hi"}, "role list"),
        ({"role": "user", "content": None}, r"field 'f.content' must be text, got NoneType"),
    ],
)
def test_what_is_no_message_is_refused(value: object, complaint: str) -> None:
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
def test_what_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises(RowError, match="field 'margin' must be a"):
        rows.number({"margin": value}, "margin")


def test_rows_share_a_prompt_by_its_text_and_roles_alone() -> None:
    one = {"prompt": [{"role": "user", "content": "Hi"}], "chosen": "a"}
    same = {"prompt": [{"content": "Hi", "role": "user"}], "chosen": "b"}
    other = {"prompt": [{"role": "system", "content": "Hi"}]}
    assert rows.prompt_key(one) == rows.prompt_key(same) != rows.prompt_key(other)
    assert rows.prompt_key({"text": "t"}) == "t"


def test_the_hash_is_the_same_on_every_machine() -> None:
    assert rows.unit_hash(0, "a") == 0x5F1AA0C8DAD9DC73 / 2**64  # printf '0\0a' | sha256sum
    assert rows.unit_hash(0, "a") != rows.unit_hash(1, "a")
