"""Why a reward model is wrong on a held-out pair: the training pairs that taught it, and the tokens that carry a score.

    g(z) = -σ(-Δ) (x_c - x_r)            gradient of -log σ(Δ), Δ = wᵀ (x_c - x_r), with respect to the head w (h,)
    influence(z, z') = g(z)ᵀ g(z')       above 0: a step on the training pair z lowers the loss of the held-out pair z'

TracIn of the last layer at the last checkpoint, up to the learning rate: Pruthi et al. 2020,
https://arxiv.org/abs/2002.08484, section 3. x are the inputs of the head.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlhf.data.render import Prompt, prompt_ids, question
from rlhf.data.rows import Row
from rlhf.evaluation.reward_card.pairs import ScoredPairs, Side, side
from rlhf.modeling.seeding import derive
from rlhf.rewards import RewardModel, encode
from rlhf.storage.markdown import cell, table

NAMES = ("chosen", "rejected")
TRAIN = 1000  # training pairs, drawn with the seed
NEAREST = 2  # training pairs shown for and against
Steps = list[tuple[str, float]]  # the text of each token of a response, and the change of the score at it


class Neighbor(NamedTuple):
    """A training pair with its influence on the held-out pair."""

    influence: float
    row: Row


class Autopsy(NamedTuple):
    """A held-out pair that is ordered wrong: the training pairs for and against its label, and the score by token."""

    pair: int
    supporting: list[Neighbor]
    opposing: list[Neighbor]
    chosen: Steps
    rejected: Steps


def autopsies(reward: RewardModel, test: ScoredPairs, train: Sequence[Row], count: int, seed: int) -> list[Autopsy]:
    """Return the ``count`` wrong pairs with the largest differences; none if the head does not read the last token."""
    wrong = [int(i) for i in np.argsort(test.differences, kind="stable")[:count] if test.differences[i] < 0]
    if not wrong:
        return []
    drawn = random.Random(derive(seed, "autopsy")).sample(range(len(train)), min(TRAIN, len(train)))
    rows = [train[i] for i in drawn]
    taught = gradients(reward, *(side(rows, name) for name in NAMES))
    found = gradients(reward, *(_part(one, wrong) for one in (test.chosen, test.rejected)))
    if taught is None or found is None:
        return []
    examined = []
    for pair, influence in zip(wrong, found @ taught.T, strict=True):
        order = influence.argsort(descending=True, stable=True).tolist()
        first, last = (
            [Neighbor(influence[i].item(), rows[i]) for i in part[:NEAREST]] for part in (order, order[::-1])
        )
        steps = (by_token(reward, one.prompts[pair], one.completions[pair]) for one in (test.chosen, test.rejected))
        examined.append(Autopsy(pair, first, last, *steps))
    return examined


def gradients(reward: RewardModel, chosen: Side, rejected: Side) -> Tensor | None:
    """Return the gradient (N, h) of each pair's loss with respect to the head; None if the head reads more."""
    rows = [row for one in (chosen, rejected) for row in zip(one.prompts, one.completions, strict=True)]
    scores, hidden = reward.read([reward.encode(*row) for row in rows])
    if hidden is None:
        return None
    differences, states = (first - second for first, second in (torch.tensor(scores).chunk(2), hidden.chunk(2)))
    return -torch.sigmoid(-differences)[:, None] * states


def by_token(reward: RewardModel, prompt: Prompt, completion: str) -> Steps:
    """Return the change of the score at each token of a response, from the score at the end of the prompt."""
    ids = reward.encode(prompt, completion)
    own = len(encode(reward.tokenizer, prompt, completion, None)) - len(prompt_ids(reward.tokenizer, prompt))
    scores = [0.0, *reward.running(ids)]
    texts = [reward.tokenizer.decode([token]) for token in ids]
    return [(texts[i], scores[i + 1] - scores[i]) for i in range(max(len(ids) - own, 0), len(ids))]


def record(one: Autopsy, pairs: ScoredPairs) -> dict[str, Any]:
    """Return an autopsy of one of ``pairs`` as JSON."""
    near = {name: [found._asdict() for found in getattr(one, name)] for name in ("supporting", "opposing")}
    return {"row": pairs.rows[one.pair]} | one._asdict() | near


def markdown(one: Autopsy, pairs: ScoredPairs) -> Iterator[str]:
    """Yield the lines about one of ``pairs``: its responses and their tokens, the training pairs for and against it."""
    yield f"{cell(question(pairs.rows[one.pair]['prompt']))}\n"
    lines = []
    for name in NAMES:
        side, scores, own = getattr(pairs, name), getattr(pairs, f"{name}_scores"), getattr(one, name)
        steps = ", ".join("{!r} {:+.2f}".format(*own[i]) for i in largest(own))
        lines.append([name, f"{scores[one.pair]:+.2f}", side.completions[one.pair], steps])
    yield from table(["", "score", "response", "tokens that change the score most"], lines)
    yield ""
    lines = [
        [which, f"{found.influence:+.3g}", *(question(found.row[name]) for name in ("prompt", *NAMES))]
        for which, near in (("for", one.supporting), ("against", one.opposing))
        for found in near
    ]
    yield from table(["training pairs", "influence", "prompt", *NAMES], lines)


def largest(steps: Steps) -> list[int]:
    """Return the places of the five largest changes of the score, in the order of the tokens."""
    return sorted(sorted(range(len(steps)), key=lambda i: -abs(steps[i][1]))[:5])


def _part(whole: Side, places: Sequence[int]) -> Side:
    return Side([whole.prompts[i] for i in places], [whole.completions[i] for i in places])
