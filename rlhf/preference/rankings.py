"""Rankings of k responses, put together again from the pairs that they were written as.

Data sets of rankings (Nectar, best of n, ranked siblings) are read as pairs like any other. The pairs of one prompt say
again who stands before whom, so that a listwise loss needs no data format of its own.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from rlhf.data.render import Prompt, question
from rlhf.data.rows import Row, prompt_key
from rlhf.errors import DataError


class Ranking(NamedTuple):
    """Responses to one prompt, the best first; from ``ordered`` on their order is not known, and does not matter."""

    prompt: Prompt
    responses: list[Prompt]
    ordered: int


def rankings(pairs: Iterable[Row]) -> list[Ranking]:
    """The rankings that the pairs of each prompt amount to; responses that no pair connects are rankings of their own.

    A ranking is a chain, best first, and at its end any number of responses that are not told apart: of k responses all
    pairs give the whole ranking, best-against-the-others gives a ranking of the best alone.

    Raises:
        DataError: the pairs of a prompt contradict each other, or order its responses in another way than that.
    """
    prompts: dict[str, list[Row]] = {}
    for row in pairs:
        prompts.setdefault(prompt_key(row), []).append(row)
    return [ranking for rows in prompts.values() for ranking in _of_prompt(rows)]


def _of_prompt(rows: Sequence[Row]) -> list[Ranking]:
    responses: dict[str, Prompt] = {}
    below: dict[str, set[str]] = {}  # what a response was preferred to
    for row in rows:
        names = [prompt_key({"prompt": row[side]}) for side in ("chosen", "rejected")]
        for name, side in zip(names, ("chosen", "rejected"), strict=True):
            responses.setdefault(name, row[side])
            below.setdefault(name, set())
        below[names[0]].add(names[1])
    prompt = rows[0]["prompt"]
    return [
        Ranking(prompt, [responses[name] for name in order], ordered)
        for order, ordered in (_order(part, below, prompt) for part in _parts(below))
    ]


def _parts(below: dict[str, set[str]]) -> list[list[str]]:
    """The responses that pairs connect, directly or through others; in the order in which they were first seen."""
    part_of = {name: {name} for name in below}
    for better, others in below.items():
        for worse in others:
            if part_of[better] is not part_of[worse]:
                joined = part_of[better] | part_of[worse]
                part_of |= dict.fromkeys(joined, joined)
    parts = {id(part): part for part in part_of.values()}
    return [[name for name in below if name in part] for part in parts.values()]


def _order(names: list[str], below: dict[str, set[str]], prompt: Prompt) -> tuple[list[str], int]:
    """Take away the best again and again, as long as it is known to stand before all that are left."""
    left, order = list(names), []
    reachable = {name: _reachable(name, below) for name in names}
    while len(left) > 1:
        best = [name for name in left if reachable[name] >= set(left) - {name}]
        if len(best) != 1 or best[0] in reachable[best[0]]:
            break
        order.append(best[0])
        left.remove(best[0])
    if not order or any(below[name] & set(left) for name in left):
        raise DataError(
            f"the pairs of the prompt {question(prompt)!r:.80} do not rank its responses: stage.loss=plackett_luce "
            "needs all pairs of a ranking, or the best against each of the others; leave it out to learn from each pair"
        )
    return order + left, len(order)


def _reachable(name: str, below: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = [name]
    while ahead:
        new = below[ahead.pop()] - found
        found |= new
        ahead += new
    return found


class Collator:
    """Rankings of token ids, ``{"response_ids": k lists, "ordered"}``, as one padded batch with the shape (G, K) apart.

    ``input_ids`` and ``attention_mask`` have a row for each response, ranking after ranking; ``sizes`` and ``ordered``
    one number for each ranking.
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        rows = [torch.tensor(ids) for example in examples for ids in example["response_ids"]]
        ones = [torch.ones_like(row) for row in rows]
        return {
            "input_ids": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": torch.nn.utils.rnn.pad_sequence(ones, batch_first=True),
            "sizes": torch.tensor([len(example["response_ids"]) for example in examples]),
            "ordered": torch.tensor([example["ordered"] for example in examples]),
        }


def by_ranking(scores: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (N,), ranking after ranking, as (G, K) with the mask of those that are there."""
    mask = torch.arange(int(sizes.max()), device=scores.device) < sizes[:, None]
    return scores.new_zeros(mask.shape).masked_scatter(mask, scores), mask
