"""Pairs without a preference for length: as many whose chosen response is longer as shorter, at every difference.

The length balancing of Singhal et al. 2023, https://arxiv.org/abs/2310.03716: a reward model that is trained on such
pairs gains nothing from the length of a response.
"""

import random
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from rlhf.evaluation.reward_card.pairs import side
from rlhf.modeling.seeding import derive

if TYPE_CHECKING:
    from datasets import Dataset


def balanced(pairs: "Dataset", width: int, seed: int) -> "Dataset":
    """Return the pairs that remain if, in each bin of length differences, the more frequent sign loses its surplus.

    Lengths are in characters, bins of their absolute differences have ``width``; the pairs that are left out are drawn
    with ``seed``, and pairs of equal lengths remain.
    """
    lengths = [np.array([len(text) for text in side(pairs, name).completions]) for name in ("chosen", "rejected")]
    differences = lengths[0] - lengths[1]
    bins: dict[int, dict[bool, list[int]]] = defaultdict(lambda: {True: [], False: []})
    for row, difference in enumerate(differences.tolist()):
        if difference:
            bins[abs(difference) // width][difference > 0].append(row)
    kept, draw = np.flatnonzero(differences == 0).tolist(), random.Random(derive(seed, "balance"))
    for number in sorted(bins):
        signs = bins[number].values()
        fewest = min(map(len, signs))
        kept += [row for rows in signs for row in draw.sample(rows, fewest)]
    return pairs.select(sorted(kept))
