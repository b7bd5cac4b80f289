import pytest
from datasets import Dataset

from rlhf.data.blocks import blocks
from rlhf.data.templates import chat_template
from rlhf.errors import DataError
from rlhf.modeling.from_scratch import new_tokenizer


def test_texts_are_joined_and_cut() -> None:
    tokenizer = new_tokenizer(["a b c d e f g"] * 3, 280, chat_template("almanac"))
    texts = Dataset.from_dict({"text": ["a b c", "d", "e f g"]})
    joined = [*tokenizer("a b c")["input_ids"], tokenizer.eos_token_id, *tokenizer("d")["input_ids"]]
    joined += [tokenizer.eos_token_id, *tokenizer("e f g")["input_ids"], tokenizer.eos_token_id]
    found = blocks(texts, tokenizer, 3, "train")
    assert found["input_ids"][:] == found["labels"][:] == [joined[:3], joined[3:6], joined[6:9]]
    assert len(joined) == 10  # the tenth is dropped
    with pytest.raises(DataError, match=r"the train split does not fill one row of stage.block_length=11 tokens"):
        blocks(texts, tokenizer, 11, "train")
