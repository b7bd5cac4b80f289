"""Extra training pairs whose rejected response is wrong by construction, against shortcuts of the reward model.

swapped     the chosen response to another prompt: Liu et al. 2024, https://arxiv.org/abs/2409.13156, section 3.2, whose
            non-contextual pairs teach that a response must belong to its prompt
truncated   the first half of the words of the chosen response
repeated    the chosen response twice
"""

import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rlhf.data.render import Prompt, question
from rlhf.data.rows import Row, prompt_key
from rlhf.evaluation.reward_card.probes import PERTURBED
from rlhf.modeling.seeding import derive

if TYPE_CHECKING:
    from datasets import Dataset


def with_negatives(pairs: "Dataset", shares: Mapping[str, float], seed: int) -> tuple["Dataset", dict[str, int]]:
    """Return ``pairs`` with extra ones behind them, and their number by kind.

    ``shares``: kind -> number of extra pairs, relative to all pairs. They are drawn with ``seed``; a response that a
    kind does not change, such as a single word that cannot be truncated, is passed over.
    """
    from datasets import Dataset, concatenate_datasets

    rows, found, counts = list(pairs), [], {}
    for kind, share in shares.items():
        draw = random.Random(derive(seed, "negatives", kind))
        made = []
        for row in _drawn(rows, draw, kind):
            if len(made) >= share * len(rows):
                break
            made.append(row)
        counts[kind] = len(made)
        found += made
    return concatenate_datasets([pairs, Dataset.from_list(found, features=pairs.features)]), counts


def _drawn(rows: list[Row], draw: random.Random, kind: str) -> Iterator[Row]:
    """Yield pairs with negatives of one ``kind``, in random order."""
    order = draw.sample(range(len(rows)), len(rows))
    for place, index in enumerate(order):
        row = rows[index]
        text = question(row["chosen"])
        if kind == "swapped":
            other = rows[order[place - 1]]
            changed = text if prompt_key(other) == prompt_key(row) else question(other["chosen"])
        else:
            changed = PERTURBED[kind](text, draw)
        if changed != text:
            yield _pair(row, changed)


def _pair(row: Row, rejected: str) -> Row:
    """Return the pair with another rejected response; its margin is not known, and its weight is that of any pair."""
    chosen: Prompt = row["chosen"]
    other: Any = rejected if isinstance(chosen, str) else [*chosen[:-1], chosen[-1] | {"content": rejected}]
    own = {"margin": 0.0, "weight": 1.0, "confidence": None}
    return row | {name: value for name, value in own.items() if name in row} | {"rejected": other}
