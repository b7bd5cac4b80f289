"""Tokenizers in a GGUF file: tokens, merges or scores, how text is split before merging, and the chat template."""

import json
import re
from copy import deepcopy
from typing import Any

from rlhf.data import templates
from rlhf.data.render import Message, Prompt
from rlhf.data.templates import templated
from rlhf.errors import ModelError
from rlhf.publishing import gguf_sentencepiece
from rlhf.publishing.gguf_layout import library

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
# How text is split -> its name in llama.cpp, which has the same expressions in src/llama-vocab.cpp.
SPLITS: dict[tuple[str, ...], str] = {
    ("bytes",): "gpt-2",
    ("digits", "bytes"): "smollm",
    (LLAMA3, "raw bytes"): "llama-bpe",
    (LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"), "raw bytes"): "qwen2",
}
GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")  # marks for training that only transformers knows
# A tokenizer that puts a space before each segment does so for contents; ggml's does not, so the template does.
SPACED = """\
{%- set spaced = namespace(turns=[]) -%}
{%- for turn in messages -%}
{%- set space = '' if turn['content'] == '' or turn['content'][0] == ' ' else ' ' -%}
{%- set spaced.turns = spaced.turns + [{'role': turn['role'], 'content': space + turn['content']}] -%}
{%- endfor -%}
{%- set messages = spaced.turns -%}
"""


def check(named: str, tokenizer: Any) -> str:
    """Return llama.cpp's name of the way in which a tokenizer splits text, or that it is SentencePiece's.

    Raises:
        ModelError: the tokenizer is of another kind, or splits text in a way that llama.cpp has no name for.
    """
    instead = "use stage.format=merged, and llama.cpp's own converter"
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = {} if backend is None else json.loads(backend.to_str())
    if parts and gguf_sentencepiece.is_one(parts):
        gguf_sentencepiece.check(named, parts)
        return gguf_sentencepiece.NAME
    if not parts or parts["model"]["type"] != "BPE" or parts["model"].get("byte_fallback"):
        raise ModelError(f"{named} has a tokenizer that is neither a byte-level BPE nor SentencePiece's: {instead}")
    split = _split(parts["pre_tokenizer"])
    normalizer = (parts["normalizer"] or {}).get("type", "NFC")
    if split not in SPLITS or normalizer != "NFC":
        raise ModelError(f"{named} has a tokenizer that splits text in a way without a name in llama.cpp: {instead}")
    return SPLITS[split]


def _split(pre: dict[str, Any] | None) -> tuple[str, ...]:
    """Return the steps of a pre-tokenizer: digits, bytes with GPT-2's expression, raw bytes, or an expression."""
    steps = [] if pre is None else pre["pretokenizers"] if pre["type"] == "Sequence" else [pre]
    found = []
    for step in steps:
        if step["type"] == "ByteLevel":
            found.append("bytes" if step.get("use_regex", True) else "raw bytes")
        elif step["type"] == "Digits" and step["individual_digits"]:
            found.append("digits")
        elif step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            found.append(step["pattern"].get("Regex", "text"))
        else:
            found.append(step["type"])
    return tuple(found)


def add_tokenizer(writer: Any, tokenizer: Any, rows: int, split: str) -> None:
    """Add a tokenizer for a model of ``rows`` embeddings."""
    gguf, parts = library(), json.loads(tokenizer.backend_tokenizer.to_str())
    texts, kinds = tokens(tokenizer, rows)
    if split == gguf_sentencepiece.NAME:
        kinds = gguf_sentencepiece.kinds(parts, texts, kinds)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(gguf_sentencepiece.scores(parts, texts))
        writer.add_add_space_prefix(gguf_sentencepiece.puts_space(parts))
        if "UNKNOWN" in kinds:
            writer.add_unk_token_id(kinds.index("UNKNOWN"))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(split)
        merges = parts["model"]["merges"]
        writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    writer.add_token_list(texts)
    writer.add_token_types([gguf.TokenType[kind] for kind in kinds])
    ends = templates.end_ids(None, tokenizer)
    writer.add_eos_token_id(ends[0])
    for end in ends[1:2]:
        writer.add_eot_token_id(end)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(adds_bos(tokenizer))
    if tokenizer.chat_template is not None:
        writer.add_chat_template(portable(tokenizer).chat_template)


def adds_bos(tokenizer: Any) -> bool:
    """Return whether the tokenizer puts the beginning of sequence before each text."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def tokens(tokenizer: Any, rows: int) -> tuple[list[str], list[str]]:
    """Return the text and the kind of each token: NORMAL, CONTROL, USER_DEFINED, or UNUSED for a row without one."""
    by_id = {id: text for text, id in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    texts, kinds = [], []
    for id in range(rows):
        special = id in added and added[id].special
        kinds.append(
            "UNUSED" if id not in by_id else "CONTROL" if special else "USER_DEFINED" if id in added else "NORMAL"
        )
        texts.append(by_id.get(id, f"[unused {id}]"))
    return texts, kinds


def portable(tokenizer: Any) -> Any:
    """Return a tokenizer that behaves as the one in the file: it puts no space before a text, its template does.

    Its template has no marks that only transformers knows.
    """
    from tokenizers import Tokenizer

    found, parts = deepcopy(tokenizer), json.loads(tokenizer.backend_tokenizer.to_str())
    spaced = False
    if gguf_sentencepiece.is_one(parts):
        parts = gguf_sentencepiece.as_in_llama_cpp(parts)
    else:
        pre = parts["pre_tokenizer"]
        for step in pre["pretokenizers"] if pre["type"] == "Sequence" else [pre]:
            spaced = spaced or bool(step.get("add_prefix_space"))
            if "add_prefix_space" in step:
                step["add_prefix_space"] = False
    other: Any = Tokenizer.from_str(json.dumps(parts))
    found.backend_tokenizer.normalizer = other.normalizer
    found.backend_tokenizer.pre_tokenizer = other.pre_tokenizer
    if found.chat_template is not None:
        found.chat_template = (SPACED if spaced else "") + GENERATION.sub("", found.chat_template)
    return found


def written(tokenizer: Any, prompt: Prompt) -> str:
    """Return the text for which the tokenizer in the file has the tokens that ``tokenizer`` has for ``prompt``."""
    if not isinstance(prompt, str):
        return templated(portable(tokenizer), prompt, tokenize=False, add_generation_prompt=True)
    text = tokenizer.backend_tokenizer.to_str()
    if gguf_sentencepiece.is_one(parts := json.loads(text)):
        return gguf_sentencepiece.written(parts, prompt)
    spaced = '"add_prefix_space":true' in text
    return f" {prompt}" if spaced and not prompt.startswith(" ") else prompt


def check_talks(named: str, tokenizer: Any, talks: list[list[Message]]) -> None:
    """Check that the tokenizer in the file has the same tokens for conversations.

    Raises:
        ModelError: they differ, because of spaces that a template cannot add.
    """
    other = portable(tokenizer)
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    for talk in talks:
        ours, theirs = (templated(one, talk, **options)["input_ids"] for one in (tokenizer, other))
        if ours != theirs:
            raise ModelError(
                f"{named} has a tokenizer and a chat template whose tokens llama.cpp does not reproduce (spaces before "
                "texts): use stage.format=merged"
            )
