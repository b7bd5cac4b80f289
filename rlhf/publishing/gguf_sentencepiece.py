"""SentencePiece's BPE tokenizers in a GGUF file: tokens with scores, and the reconstruction of scores from merges.

A file of the tokenizers library has pairs in the order of merging; SentencePiece and llama.cpp merge the pair whose
result has the highest score, and of equal ones the leftmost. The two agree if all pairs with the same result stand
together, and no pair is missing whose result is a token. Both are checked, and `encode` merges as llama.cpp does, so
that texts can be compared.
"""

import heapq
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rlhf.errors import ModelError

NAME = "sentencepiece"  # of the way to split text, beside llama.cpp's names of byte-level BPE
SPACE = "▁"
OTHER = -10000.0  # score of a token that is not merged, as in llama.cpp's converter
PREPEND = {"type": "Prepend", "prepend": SPACE}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
EXACTLY = {"type": "Sequence", "normalizers": [PREPEND, REPLACE]}


def is_one(parts: dict[str, Any]) -> bool:
    """Return whether a tokenizer of the tokenizers library comes from SentencePiece's BPE."""
    model = parts["model"]
    falls_back = model["type"] == "BPE" and model.get("byte_fallback")
    return bool(falls_back) and all(byte(number) in model["vocab"] for number in range(256))


def byte(number: int) -> str:
    """Return the token of a byte."""
    return f"<0x{number:02X}>"


def spaces(parts: dict[str, Any]) -> str | None:
    """Return the texts before which a space is put: ``always``, ``first``, ``never``; None: other.

    ``exactly`` is ``always``, also before a text that begins with a space, as llama.cpp does.
    """
    normalizer, pre = parts["normalizer"], parts["pre_tokenizer"]
    if pre is None and normalizer == EXACTLY:
        return "exactly"
    if normalizer is None and pre is not None and pre["type"] == "Metaspace" and not pre["split"]:
        return pre["prepend_scheme"]
    return None


def puts_space(parts: dict[str, Any]) -> bool:
    """Return whether llama.cpp shall put a space before each text between special tokens."""
    return spaces(parts) in ("exactly", "always")


def as_in_llama_cpp(parts: dict[str, Any]) -> dict[str, Any]:
    """Return a tokenizer that puts spaces as llama.cpp does with this file: everywhere or nowhere."""
    if spaces(parts) == "always":
        return parts | {"normalizer": EXACTLY, "pre_tokenizer": None}
    if spaces(parts) == "first":
        return parts | {"pre_tokenizer": parts["pre_tokenizer"] | {"prepend_scheme": "never"}}
    return parts


def written(parts: dict[str, Any], prompt: str) -> str:
    """Return the text for which the tokenizer in the file has the tokens of ``prompt``."""
    begins = prompt.startswith((" ", SPACE))
    if spaces(parts) == "always":
        return prompt[begins:]
    return f" {prompt}" if spaces(parts) == "first" and prompt and not begins else prompt


def check(named: str, parts: dict[str, Any]) -> None:
    """Check that scores reproduce the merges of a tokenizer.

    Raises:
        ModelError: they do not, or spaces are put in a way that llama.cpp does not know.
    """
    instead = "use stage.format=merged, and llama.cpp's own converter"
    if spaces(parts) is None or parts["model"].get("ignore_merges"):
        raise ModelError(f"{named} has a SentencePiece tokenizer with a normalizer that llama.cpp lacks: {instead}")
    pairs, vocab = merges(parts), parts["model"]["vocab"]
    results = ["".join(pair) for pair in pairs]
    together = len(set(results)) == 1 + sum(one != other for one, other in pairwise(results)) if results else True
    known = set(pairs)
    plain = vocab.keys() - added(parts)
    cuts = ((token[:cut], token[cut:]) for token in plain for cut in range(1, len(token)))
    complete = all(pair in known for pair in cuts if pair[0] in vocab and pair[1] in vocab)
    if not together or not complete:
        raise ModelError(f"{named} has a SentencePiece tokenizer whose merges no scores reproduce: {instead}")


def merges(parts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the pairs in the order of merging."""
    found = parts["model"]["merges"]
    return [tuple(one.split(" ")) if isinstance(one, str) else tuple(one) for one in found]


def added(parts: dict[str, Any]) -> set[str]:
    """Return the tokens that are found before merging."""
    return {token["content"] for token in parts["added_tokens"]}


def scores(parts: dict[str, Any], texts: Sequence[str]) -> list[float]:
    """Return the score of each token: minus its place among the results of merges."""
    places: dict[str, int] = {}
    for pair in merges(parts):
        places.setdefault("".join(pair), len(places))
    return [-float(places[text]) if text in places else OTHER for text in texts]


def kinds(parts: dict[str, Any], texts: Sequence[str], found: Sequence[str]) -> list[str]:
    """Return the kinds of the tokens: those of a byte-level BPE, with BYTE and UNKNOWN."""
    bytes_, unknown = {byte(number) for number in range(256)}, parts["model"].get("unk_token")
    return [
        "UNKNOWN" if text == unknown else "BYTE" if text in bytes_ else kind
        for text, kind in zip(texts, found, strict=True)
    ]


def encode(text: str, ids: dict[str, int], scores: Mapping[int, float], spaced: bool) -> list[int]:
    """Return the token ids of a text without special tokens, merged as llama.cpp does, perhaps with a space before."""
    symbols = list(f"{' ' if spaced and text else ''}{text}".replace(" ", SPACE))
    after, before = list(range(1, len(symbols) + 1)), list(range(-1, len(symbols) - 1))
    queue: list[tuple[float, int, int, str]] = []

    def offer(left: int, right: int) -> None:
        if left >= 0 and right < len(symbols) and (merged := symbols[left] + symbols[right]) in ids:
            heapq.heappush(queue, (-scores[ids[merged]], left, right, merged))

    for place in range(1, len(symbols)):
        offer(place - 1, place)
    while queue:
        _, left, right, merged = heapq.heappop(queue)
        if not symbols[left] or not symbols[right] or symbols[left] + symbols[right] != merged:
            continue  # one of them has been merged since
        symbols[left], symbols[right] = merged, ""
        after[left] = after[right]
        if after[right] < len(symbols):
            before[after[right]] = left
        offer(before[left], left)
        offer(left, after[left])
    return [id for symbol in symbols if symbol for id in _ids(symbol, ids)]


def _ids(symbol: str, ids: dict[str, int]) -> list[int]:
    return [ids[symbol]] if symbol in ids else [ids[byte(one)] for one in symbol.encode()]


def check_texts(named: str, tokenizer: Any, texts: Sequence[str]) -> None:
    """Compare the token ids of texts with those that llama.cpp makes of scores; ``tokenizer`` puts spaces as it does.

    Raises:
        ModelError: they differ.
    """
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    ids, marks = parts["model"]["vocab"], added(parts)
    by_id = {id: text for text, id in sorted(ids.items(), key=lambda entry: entry[1])}
    found = dict(zip(by_id, scores(parts, list(by_id.values())), strict=True))
    for text in texts:
        if any(mark in text for mark in marks):
            continue  # these are found before merging; llama.cpp itself compares them in the certificate
        ours = tokenizer(text, add_special_tokens=False)["input_ids"]
        if ours != encode(text, ids, found, puts_space(parts)):
            raise ModelError(
                f"{named} has a SentencePiece tokenizer whose tokens of {text[:40]!r} no scores reproduce: use "
                "stage.format=merged, and llama.cpp's own converter"
            )
