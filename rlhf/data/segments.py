"""Token ids of rendered conversations, whose parts between special tokens are tokenized once.

The prompt of a pair occurs three times: alone, with the chosen and with the rejected response; a system message occurs
in every row. A fast tokenizer cuts a text at its added tokens first and encodes the parts between them independently,
so each distinct part is encoded once. Tokenizers in which a part depends on its place encode whole texts.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from rlhf.data import bounds

PROBES = ("a{0}a", "e{0}e 1{0}1", "a {0} b", "{0}\nb {0}", "{0} {0}a.{0}")
PROBED = 8  # tokens


def token_ids(tokenizer: Any, texts: Sequence[str], known: dict[str, list[int]] | None = None) -> list[list[int]]:
    """Return the token ids of texts without special tokens around them; ``known`` keeps the ids of parts for later."""
    added = tuple((token.content, *_flags(token)) for token in tokenizer.added_tokens_decoder.values())
    borders = _borders(tokenizer, added)
    if borders is None:
        return bounds.token_ids(tokenizer, texts, add_special_tokens=False)
    known = {} if known is None else known
    rows = [borders.split(text) for text in texts]
    new = [part for part in dict.fromkeys(chain.from_iterable(rows)) if part not in known]
    known |= zip(new, bounds.token_ids(tokenizer, new, add_special_tokens=False), strict=True)
    return [list(chain.from_iterable(known[part] for part in row)) for row in rows]


def _flags(token: Any) -> tuple[bool, ...]:
    return token.normalized, token.lstrip or token.rstrip or token.single_word


@lru_cache(maxsize=16)
def _borders(tokenizer: Any, added: tuple[tuple[str, bool, bool], ...]) -> re.Pattern | None:
    """Return a pattern that splits a text at added tokens; None if the parts depend on each other."""
    exact = sorted((text for text, normalized, _ in added if not normalized), key=len, reverse=True)
    if not getattr(tokenizer, "is_fast", False) or not exact or any(strips for *_, strips in added):
        return None
    pattern = re.compile(f"({'|'.join(map(re.escape, exact))})")
    for probe in (probe.format(token) for token in exact[:PROBED] for probe in PROBES):
        parts = [part for part in pattern.split(probe) if part]
        whole, *found = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (probe, *parts))
        if whole != list(chain.from_iterable(found)):
            return None
    return pattern
