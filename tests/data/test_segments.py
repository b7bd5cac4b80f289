"""The ids of parts, joined, are the ids of the whole text, or whole texts are tokenized."""

import os
from pathlib import Path

import pytest
from hypothesis import given, strategies
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Metaspace
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlhf.data import segments
from rlhf.data.templates import chat_template
from rlhf.modeling.from_scratch import new_tokenizer

MARKS = ("<|end|>", "<|user|>", "<|assistant|>")
PIECES = strategies.lists(strategies.sampled_from((*MARKS, " ", "\n", "a", "Lima is", " the\n\n", "é.", "  ")))


def tokenizer() -> PreTrainedTokenizerFast:
    return new_tokenizer(["Lima is the capital of Peru."] * 3, 300, chat_template("almanac"))


TOKENIZER = tokenizer()


def whole(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@given(PIECES)
def test_joined_parts_are_the_whole(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert segments.token_ids(TOKENIZER, [text, text + "a"]) == [whole(TOKENIZER, text), whole(TOKENIZER, text + "a")]


def test_a_part_is_tokenized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    original = segments.bounds.token_ids

    def counting(tokenizer: PreTrainedTokenizerFast, texts: list[str], **options: bool) -> list[list[int]]:
        seen.extend(texts)
        return original(tokenizer, texts, **options)

    monkeypatch.setattr(segments.bounds, "token_ids", counting)
    known: dict[str, list[int]] = {}
    for answer in ("one", "two"):
        segments.token_ids(TOKENIZER, [f"<|user|>Lima?<|assistant|>{answer}"] * 2, known)
    assert sorted(seen) == ["", "<|assistant|>", "<|user|>", "Lima?", "one", "two"]


def test_a_tokenizer_in_which_the_first_part_differs_gets_whole_texts() -> None:
    words = Tokenizer(WordLevel({"\u2581a": 0, "a": 1, "<s>": 2}, unk_token="a"))
    words.pre_tokenizer = Metaspace(prepend_scheme="first")
    first = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<s>")
    assert segments.token_ids(first, ["a<s>a"]) == [[0, 2, 1]]
    assert whole(first, "a") == [0]


def test_a_token_that_takes_white_space_gets_whole_texts() -> None:
    strips = tokenizer()
    strips.add_special_tokens({"additional_special_tokens": [AddedToken("<|x|>", lstrip=True, special=True)]})
    text = "Lima is <|x|> the"
    assert segments.token_ids(strips, [text]) == [whole(strips, text)]
    assert whole(strips, text) != [id for part in ("Lima is ", "<|x|>", " the") for id in whole(strips, part)]


@pytest.mark.skipif("RLHF_TEST_MODELS" not in os.environ, reason="RLHF_TEST_MODELS is not set")
@pytest.mark.parametrize("name", ["SmolLM2-135M-Instruct", "stories15M"])
def test_a_real_tokenizer(name: str) -> None:
    real = AutoTokenizer.from_pretrained(Path(os.environ["RLHF_TEST_MODELS"], name))
    mark = real.eos_token
    texts = [f"{mark}user\nHello  {mark}\n{mark} a1.5b{mark}", f"x {mark}\n", "no mark 12", mark]
    assert segments.token_ids(real, texts) == [whole(real, text) for text in texts]
