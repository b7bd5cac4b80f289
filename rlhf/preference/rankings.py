"""Rankings of K responses, reconstructed from pairs.

Data sets of rankings (Nectar, best of n, ranked siblings) are read as pairs like any other data set. The pairs of one
prompt determine its ranking, so that a listwise loss does not require a separate data format.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from rlhf.data.render import Prompt, question
from rlhf.data.rows import Row, prompt_key
from rlhf.errors import DataError


class Ranking(NamedTuple):
    """Responses to one prompt, best first; the order of those from index ``ordered`` on is unknown."""

    prompt: Prompt
    responses: list[Prompt]
    ordered: int


def rankings(pairs: Iterable[Row]) -> list[Ranking]:
    """Return the rankings that the pairs of each prompt determine, one per set of connected responses.

    A ranking is a chain, best first, followed by any number of responses in unknown order: all pairs of K responses
    determine the complete ranking, pairs of the best with each other response only the best.

    Raises:
        DataError: the pairs of a prompt are contradictory or do not determine such a ranking.
    """
    prompts: dict[str, list[Row]] = {}
    for row in pairs:
        prompts.setdefault(prompt_key(row), []).append(row)
    return [ranking for rows in prompts.values() for ranking in _of_prompt(rows)]


def _of_prompt(rows: Sequence[Row]) -> list[Ranking]:
    responses: dict[str, Prompt] = {}
    below: dict[str, set[str]] = {}  # response -> the responses that it was preferred to
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
    """Return the connected components of the responses, in the order in which they were first seen."""
    part_of = {name: {name} for name in below}
    for better, others in below.items():
        for worse in others:
            if part_of[better] is not part_of[worse]:
                joined = part_of[better] | part_of[worse]
                part_of |= dict.fromkeys(joined, joined)
    parts = {id(part): part for part in part_of.values()}
    return [[name for name in below if name in part] for part in parts.values()]


def _order(names: list[str], below: dict[str, set[str]], prompt: Prompt) -> tuple[list[str], int]:
    """Return the responses, best first, and how many of them are known to be better than all later ones.

    Raises:
        DataError: the pairs do not determine a ranking.
    """
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
    """Return the responses that ``name`` was preferred to, directly or through others."""
    found: set[str] = set()
    ahead = [name]
    while ahead:
        new = below[ahead.pop()] - found
        found |= new
        ahead += new
    return found


class Collator:
    """Collates rankings of token ids, ``{"response_ids": K lists, "ordered": J}``, into one padded batch.

    ``input_ids`` and ``attention_mask`` have one row per response, ranking after ranking; ``sizes`` and ``ordered`` one
    number per ranking, (G,).
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
    """Return scores (N,), ranking after ranking, as (G, K), and the mask (G, K) of existing responses."""
    mask = torch.arange(int(sizes.max()), device=scores.device) < sizes[:, None]
    return scores.new_zeros(mask.shape).masked_scatter(mask, scores), mask
