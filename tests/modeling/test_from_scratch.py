import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.templates import chat_template
from rlhf.errors import ConfigError
from rlhf.modeling.from_scratch import SMALLEST, new_policy, new_tokenizer

TEXTS = ["The capital of Peru is Lima.", "Lima lies in South America.", "Peru borders Chile."] * 5
TOKENIZER = new_tokenizer(TEXTS, 320, chat_template("almanac"))
TALK = [{"role": "user", "content": "What is the capital of Peru?"}, {"role": "assistant", "content": "Lima."}]


def test_padding_and_the_end_are_different_tokens() -> None:
    assert TOKENIZER.pad_token_id != TOKENIZER.eos_token_id
    assert TOKENIZER.bos_token_id is None


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<|"), min_size=1, max_size=40))
def test_any_text_survives(text: str) -> None:
    """Byte level: nothing is unknown. A space is put before the first word, which decoding leaves in."""
    ids = TOKENIZER(text)["input_ids"]
    assert TOKENIZER.decode(ids).removeprefix(" ") == text.removeprefix(" ")


def test_a_word_has_one_token_wherever_it_stands() -> None:
    [start] = TOKENIZER("Lima")["input_ids"]
    assert start in TOKENIZER("The capital of Peru is Lima")["input_ids"]
    answer = TOKENIZER.apply_chat_template(TALK, tokenize=True, return_dict=True)["input_ids"]
    assert start in answer


def test_the_template_marks_the_answer_and_ends_it() -> None:
    rendered = TOKENIZER.apply_chat_template(TALK, tokenize=False)
    assert rendered == "<|user|>What is the capital of Peru?<|assistant|>Lima.<|end|>"
    prompt = TOKENIZER.apply_chat_template(TALK[:1], tokenize=False, add_generation_prompt=True)
    assert rendered.startswith(prompt)
    marked = TOKENIZER.apply_chat_template(TALK, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    kept = [i for i, keep in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if keep]
    assert TOKENIZER.decode(kept).strip() == "Lima.<|end|>"


def test_weights_come_from_torchs_generator() -> None:
    architecture = {"vocabulary": 320, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    architecture |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    torch.manual_seed(0)
    one = new_policy(architecture, TOKENIZER)
    torch.manual_seed(0)
    two = new_policy(architecture, TOKENIZER)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert one.config.vocab_size == len(TOKENIZER)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"hiden_size": 8}, "model.architecture.hiden_size is not an argument of LlamaConfig: remove it"),
        ({"hidden_size": 17}, r"model.architecture cannot be used \(The hidden size \(17\) is not a multiple of"),
        ({"hidden_size": "wide"}, r"model.architecture cannot be used \(Field 'hidden_size' .*'wide'"),
        ({"num_attention_heads": 0}, "model.architecture.num_attention_heads must be positive, got 0"),
        ({"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 3}, "heads=4 is not divisible by .*=3"),
        ({"rms_norm_eps": "small"}, r"model.architecture cannot be used \(.*rms_norm_eps"),
        ({"hidden_act": "nope"}, r"model.architecture cannot be used \(.*nope"),
        ({"vocab_size": 9}, "model.architecture.vocab_size is the tokenizer's: set model.architecture.vocabulary"),
    ],
)
def test_an_impossible_architecture_is_reported(architecture: dict, message: str) -> None:
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    with pytest.raises(ConfigError, match=message):
        new_policy({"vocabulary": 320} | small | architecture, TOKENIZER)


def test_a_vocabulary_holds_every_byte() -> None:
    with pytest.raises(ConfigError, match="model.architecture.vocabulary must be at least 261 tokens, got 260"):
        new_tokenizer(TEXTS, 260, chat_template("almanac"))
    assert len(new_tokenizer(TEXTS, SMALLEST, chat_template("almanac"))) == SMALLEST == 261
