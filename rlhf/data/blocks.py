"""Plain text as rows of equal length for next-token prediction."""

from itertools import chain
from typing import Any

from datasets import Dataset

from rlhf.data.render import text_ids
from rlhf.errors import DataError


def blocks(texts: Dataset, tokenizer: Any, length: int, split: str, setting: str = "stage.block_length") -> Dataset:
    """Return rows of ``length`` tokens, cut from the texts joined by the end of sequence; the remainder is dropped.

    A thousand texts are joined at a time, so that memory does not grow with the corpus.

    Raises:
        DataError: the texts do not fill one row.
    """

    def cut(batch: dict[str, list]) -> dict[str, list]:
        ids = list(chain.from_iterable([*row, tokenizer.eos_token_id] for row in text_ids(tokenizer, batch["text"])))
        rows = [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]
        return {"input_ids": rows, "labels": rows}

    found = texts.map(cut, batched=True, remove_columns=texts.column_names)
    if not len(found):
        raise DataError(
            f"data.text: the {split} split does not fill one row of {setting}={length} tokens: "
            f"add text or set a smaller {setting}"
        )
    return found
