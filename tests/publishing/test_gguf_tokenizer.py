from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlhf.config import Quantization
from rlhf.data.render import encode
from rlhf.data.templates import chat_template, templated
from rlhf.errors import ModelError
from rlhf.modeling.from_scratch import new_tokenizer
from rlhf.publishing import gguf_tokenizer
from rlhf.publishing.gguf_tokenizer import (
    LLAMA3,
    add_tokenizer,
    adds_bos,
    check,
    check_talks,
    portable,
    tokens,
    written,
)

TALKS = [
    [{"role": "user", "content": "Which tree?"}],
    [{"role": "system", "content": ""}, {"role": "user", "content": " And why?\n"},
     {"role": "assistant", "content": "2 oaks"}, {"role": "user", "content": "How?"}],
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return new_tokenizer(["Which tree is the tallest? And why? How? 2 oaks"] * 3, 300, chat_template("almanac"))


def of(pre: Any, **more: Any) -> PreTrainedTokenizerFast:
    """A tokenizer with this pre-tokenizer."""
    backend = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")], **more))
    backend.pre_tokenizer, backend.decoder = pre, decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
RAW = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


@pytest.mark.parametrize(
    ("pre", "name"),
    [
        (BYTES, "gpt-2"),
        (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]), "smollm"),
        (pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), RAW]), "llama-bpe"),
        (pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3.replace("{1,3}", "")), "isolated"), RAW]), "qwen2"),
    ],
)
def test_the_way_to_split_text_has_its_name_in_llama_cpp(pre: Any, name: str) -> None:
    assert check("stage.run=x", of(pre)) == name


def test_other_tokenizers_are_refused() -> None:
    lowercase = of(BYTES)
    lowercase.backend_tokenizer.normalizer = normalizers.Lowercase()
    for other in (of(pre_tokenizers.Whitespace()), of(pre_tokenizers.Digits(individual_digits=False)), lowercase):
        with pytest.raises(ModelError, match="stage.run=x has a tokenizer that splits text in a way without a name"):
            check("stage.run=x", other)
    for other in (of(BYTES, byte_fallback=True), object()):
        with pytest.raises(ModelError, match="stage.run=x has a tokenizer that is neither a byte-level BPE nor"):
            check("stage.run=x", other)


def test_each_row_of_the_model_has_a_token_and_its_kind(tokenizer: Any) -> None:
    texts, kinds = tokens(tokenizer, len(tokenizer) + 2)
    assert texts[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert [kinds[id] for id in (0, 1, 4, 5)] == ["CONTROL", "CONTROL", "CONTROL", "NORMAL"]
    assert kinds[-2:] == ["UNUSED", "UNUSED"]
    assert len(set(texts)) == len(texts)


def test_the_written_template_puts_the_spaces_that_the_tokenizer_puts(tokenizer: Any) -> None:
    other = portable(tokenizer)
    assert tokenizer("Which")["input_ids"] == other(" Which")["input_ids"] != other("Which")["input_ids"]
    check_talks("stage.run=x", tokenizer, TALKS)
    assert "generation %}" not in other.chat_template
    rendered = templated(other, TALKS[1], tokenize=False, add_generation_prompt=True)
    assert rendered == "<|system|><|user|> And why?\n<|assistant|> 2 oaks<|end|><|user|> How?<|assistant|>"


def test_a_text_is_written_with_the_space_that_the_tokenizer_puts(tokenizer: Any) -> None:
    for prompt in ("Which tree?", " Which tree?", *TALKS):
        expected = encode(tokenizer, [prompt])[0]
        assert portable(tokenizer)(written(tokenizer, prompt), add_special_tokens=False)["input_ids"] == expected


def test_tokens_that_a_template_cannot_reproduce_are_refused(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_tokenizer, "SPACED", "")
    with pytest.raises(ModelError, match="stage.run=x has a tokenizer and a chat template whose tokens llama.cpp does"):
        check_talks("stage.run=x", tokenizer, TALKS)


def test_a_file_has_tokens_merges_ends_and_template(tokenizer: Any, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="an extra: pip install 'rlhf[gguf]'")
    from tests.publishing.test_gguf_weights import KINDS, new_writer

    writer = new_writer(tmp_path / "model.gguf", KINDS["llama"]().config, "tiny", Quantization.f32)
    add_tokenizer(writer, tokenizer, len(tokenizer), "gpt-2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    read = {name.removeprefix("tokenizer."): field.contents() for name, field in fields.items()}
    assert read["ggml.tokens"] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    merges = tokenizer.backend_tokenizer.model.__getstate__()
    assert all(
        f'"{first}","{second}"'.encode() in merges for first, second in (one.split() for one in read["ggml.merges"])
    )
    assert (read["ggml.model"], read["ggml.pre"], read["ggml.add_bos_token"]) == ("gpt2", "gpt-2", False)
    assert read["ggml.eos_token_id"] == tokenizer.eos_token_id
    assert read["chat_template"] == portable(tokenizer).chat_template
    assert not adds_bos(tokenizer)
