import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.errors import ConfigError
from rlhf.models import chat_template
from rlhf.scratch import new_policy, new_tokenizer

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
    with pytest.raises(ConfigError, match="model.architecture.hiden_size is no argument of LlamaConfig"):
        new_policy({"hiden_size": 8}, TOKENIZER)
