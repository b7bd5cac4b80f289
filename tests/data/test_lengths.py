"""Worked by hand, with a vocabulary of single letters: a token is a character."""

import pytest
from datasets import Dataset
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from rlhf.data.lengths import overlong
from rlhf.models import chat_template
from rlhf.scratch import new_tokenizer


def letters(template: str) -> PreTrainedTokenizerFast:
    tokenizer = new_tokenizer(["x"], 262, template)
    tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return tokenizer


TOKENIZER = letters(chat_template("almanac"))
TEXT = Dataset.from_dict({"prompt": ["abcd", "abcd", "ab"], "completion": ["efg", "ef<|end|>", "c"]})  # 8, 7 and 4


def said(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def test_a_token_is_a_character() -> None:
    assert [len(TOKENIZER(text)["input_ids"]) for text in ("abcd", "efg", "ef<|end|>")] == [4, 3, 3]


@pytest.mark.parametrize(
    ("longest", "counted"),
    [(None, (0, 0)), (8, (0, 0)), (7, (1, 0)), (6, (2, 0)), (5, (2, 0)), (4, (0, 2)), (3, (1, 2)), (2, (0, 3))],
)
def test_text_is_counted_with_the_end_of_sequence(longest: int | None, counted: tuple[int, int]) -> None:
    assert overlong(TEXT, ["completion"], TOKENIZER, longest) == counted


@pytest.mark.parametrize(("longest", "counted"), [(9, (0, 0)), (8, (1, 0)), (7, (1, 0)), (6, (0, 1))])
def test_a_conversation_is_counted_with_the_markers_of_its_template(longest: int, counted: tuple[int, int]) -> None:
    """<|user|> a b c d <|assistant|> | e f <|end|>"""
    talk = Dataset.from_dict({"prompt": [said("user", "abcd")], "completion": [said("assistant", "ef")]})
    assert overlong(talk, ["completion"], TOKENIZER, longest) == counted


@pytest.mark.parametrize(("longest", "counted"), [(8, (0, 0)), (7, (1, 0)), (4, (0, 1))])
def test_a_pair_is_as_long_as_the_longer_of_its_responses(longest: int, counted: tuple[int, int]) -> None:
    pair = Dataset.from_dict({"prompt": ["abcd"], "chosen": ["e"], "rejected": ["efg"]})
    assert overlong(pair, ["chosen", "rejected"], TOKENIZER, longest) == counted


def test_rows_are_counted_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf.data.lengths.BATCH", 2)
    assert overlong(TEXT, ["completion"], TOKENIZER, 3) == (1, 2)


def test_the_response_begins_where_the_prompt_ends_to_be_its_start() -> None:
    """A template may close the prompt otherwise when an answer follows: to TRL the answer begins at the difference."""
    tokenizer = letters("")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}??{% endif %}"
    )
    talk = Dataset.from_dict({"prompt": [said("user", "abcd")], "completion": [said("assistant", "efg")]})
    assert overlong(talk, ["completion"], tokenizer, 5) == (1, 0)
    assert overlong(talk, ["completion"], tokenizer, 4) == (0, 1)
