import pytest

from rlhf.data.render import prompt_ids, prompt_text, question
from rlhf.errors import DataError, ModelError
from rlhf.models import chat_template
from rlhf.scratch import new_tokenizer

TOKENIZER = new_tokenizer(["Lima is the capital of Peru."] * 3, 300, chat_template("almanac"))
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is Lima?"}]


def test_the_question_is_what_the_user_sees_last() -> None:
    assert question("What is Lima?") == question(TALK) == "What is Lima?"


def test_a_conversation_ends_with_the_marker_that_opens_the_answer() -> None:
    assert prompt_text(TOKENIZER, TALK) == "<|system|>Be brief.<|user|>What is Lima?<|assistant|>"
    assert TOKENIZER.decode(prompt_ids(TOKENIZER, TALK)[-1:]) == "<|assistant|>"


def test_a_string_is_left_as_it_is() -> None:
    assert prompt_text(TOKENIZER, "Once upon") == "Once upon"
    assert prompt_ids(TOKENIZER, "Lima is") == TOKENIZER("Lima is")["input_ids"]


def test_of_a_long_prompt_the_end_is_kept() -> None:
    whole = prompt_ids(TOKENIZER, TALK)
    assert prompt_ids(TOKENIZER, TALK, 3) == whole[-3:]
    assert prompt_ids(TOKENIZER, TALK, len(whole) + 5) == whole


def test_what_cannot_be_rendered_is_refused() -> None:
    with pytest.raises(DataError, match="is empty: there is no token to continue from"):
        prompt_ids(TOKENIZER, "")
    bare = new_tokenizer(["Lima"] * 3, 300, "")
    bare.chat_template = None
    with pytest.raises(ModelError, match="the tokenizer has no chat template: give one with model.chat_template="):
        prompt_text(bare, TALK)
