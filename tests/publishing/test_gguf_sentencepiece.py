import json
import random
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlhf.errors import ModelError
from rlhf.publishing import gguf_tokenizer
from rlhf.publishing.gguf_sentencepiece import (
    NAME,
    OTHER,
    byte,
    check_texts,
    encode,
    kinds,
    puts_space,
    scores,
    spaces,
    written,
)

LETTERS = "▁abcdefgh"
PIECES = ["▁a", "ab", "bc", "abc", "▁ab", "de", "▁▁", "cd", "abcd", "dea", "▁abc", "aa", "aaa", "▁▁a", "deab"]
TEXTS = ["abc dea", "  aaaa", " a", "", "abcdeabcdea", "de ad\nbé", "a  b   abc", "▁abc"]
PREPEND = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def new(
    normalizer: Any = PREPEND, pre: Any = None, merges: list[tuple[str, str]] | None = None, **more: Any
) -> PreTrainedTokenizerFast:
    """A tokenizer as transformers converts it from SentencePiece: all pairs with a result that is a piece, in order."""
    vocab = {text: id for id, text in enumerate(["<unk>", "<s>", "</s>", *map(byte, range(256)), *PIECES, *LETTERS])}
    backend: Any = Tokenizer(
        models.BPE(
            vocab=vocab, merges=merges or pairs(vocab), unk_token="<unk>", fuse_unk=True, byte_fallback=True, **more
        )
    )
    if normalizer is not None:
        backend.normalizer = normalizer
    if pre is not None:
        backend.pre_tokenizer = pre
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def pairs(vocab: dict[str, int]) -> list[tuple[str, str]]:
    return [
        (piece[:cut], piece[cut:])
        for piece in PIECES
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]


def metaspace(scheme: str) -> PreTrainedTokenizerFast:
    return new(None, pre_tokenizers.Metaspace("▁", scheme, False))


def parts(tokenizer: Any) -> dict[str, Any]:
    return json.loads(tokenizer.backend_tokenizer.to_str())


def test_scores_fall_in_the_order_of_merging() -> None:
    tokenizer = new()
    texts, plain = gguf_tokenizer.tokens(tokenizer, len(tokenizer) + 1)
    found = dict(zip(texts, scores(parts(tokenizer), texts), strict=True))
    assert [found[piece] for piece in PIECES] == [-float(place) for place in range(len(PIECES))]
    assert found["a"] == found["<s>"] == found[byte(65)] == OTHER
    named = dict(zip(texts, kinds(parts(tokenizer), texts, plain), strict=True))
    assert [named[text] for text in ("<unk>", "<s>", byte(0), "abc", texts[-1])] == [
        "UNKNOWN", "CONTROL", "BYTE", "NORMAL", "UNUSED",
    ]  # fmt: skip


def test_worked_text_is_merged_by_score() -> None:
    """Worked by hand: of ▁abcd, ▁a is merged first, then bc, then no pair is left whose result is a token."""
    ids = {text: id for id, text in enumerate(["▁a", "ab", "bc", *LETTERS, *map(byte, range(256))])}
    found = encode("abcd", ids, {0: 0.0, 1: -1.0, 2: -2.0} | dict.fromkeys(range(3, 300), OTHER), True)
    assert [list(ids)[id] for id in found] == ["▁a", "bc", "d"]


@pytest.mark.parametrize("tokenizer", [new(), *(metaspace(scheme) for scheme in ("always", "first", "never"))])
def test_tokens_are_those_of_the_tokenizer(tokenizer: Any) -> None:
    assert gguf_tokenizer.check("stage.run=x", tokenizer) == NAME
    generator = random.Random(0)
    texts = TEXTS + ["".join(generator.choices("abcde  ", k=12)) for _ in range(500)]
    check_texts("stage.run=x", gguf_tokenizer.portable(tokenizer), texts)
    found = parts(gguf_tokenizer.portable(tokenizer))
    ids = found["model"]["vocab"]
    by_id = {id: text for text, id in ids.items()}
    points = dict(zip(by_id, scores(found, list(by_id.values())), strict=True))
    for text in texts:  # as a whole prompt
        theirs = encode(gguf_tokenizer.written(tokenizer, text), ids, points, puts_space(found))
        assert theirs == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_spaces_are_put_in_four_ways() -> None:
    found = [new(), *(metaspace(scheme) for scheme in ("always", "first", "never"))]
    assert [spaces(parts(one)) for one in found] == ["exactly", "always", "first", "never"]
    assert [puts_space(parts(one)) for one in found] == [True, True, False, False]
    assert [written(parts(one), " a") for one in found] == [" a", "a", " a", " a"]
    assert [written(parts(one), "a") for one in found] == ["a", "a", " a", "a"]


def test_a_template_is_compared_with_the_tokens_of_llama_cpp() -> None:
    tokenizer = metaspace("always")
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"
    gguf_tokenizer.check_talks("stage.run=x", tokenizer, [[{"role": "user", "content": "abc"}]])
    with pytest.raises(ModelError, match="stage.run=x has a tokenizer and a chat template whose tokens llama.cpp does"):
        gguf_tokenizer.check_talks("stage.run=x", tokenizer, [[{"role": "user", "content": " abc"}]])


def test_merges_that_no_scores_reproduce_are_refused() -> None:
    whole = [tuple(pair) for pair in parts(new())["model"]["merges"]]
    lacking = [pair for pair in whole if pair != ("a", "bc")]
    apart = [*[pair for pair in whole if pair != ("ab", "c")], ("ab", "c")]
    for merges in (lacking, apart):
        with pytest.raises(ModelError, match="stage.run=x has a SentencePiece tokenizer whose merges no scores repro"):
            gguf_tokenizer.check("stage.run=x", new(merges=merges))
    tokens = parts(new())["model"]["vocab"]
    assert tokens["ab"] < tokens["abc"]


def test_other_normalizers_are_refused() -> None:
    for other in (new(normalizers.NFKC()), new(None, pre_tokenizers.Metaspace()), new(ignore_merges=True)):
        with pytest.raises(ModelError, match="stage.run=x has a SentencePiece tokenizer with a normalizer that"):
            gguf_tokenizer.check("stage.run=x", other)


def test_other_tokens_of_a_text_are_refused() -> None:
    with pytest.raises(ModelError, match="stage.run=x has a SentencePiece tokenizer whose tokens of ' abc' no scores"):
        check_texts("stage.run=x", metaspace("always"), [" abc"])
