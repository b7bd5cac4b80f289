"""Several reward models as one: where they disagree, no response earns what a single one of them thinks of it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from rlhf.data.render import Prompt
from rlhf.rewards.normalization import FixedNormalizer
from rlhf.rewards.protocol import RewardFunction, checked


class Judged(NamedTuple):
    """One number per response: the score, and the deviation between the members that gave it."""

    scores: list[float]
    disagreement: list[float]


class Ensemble:
    """mean - ``deviations`` · std over the members' scores of a response.

    The deviation is the population's, like the variance that Coste et al. 2023 (https://arxiv.org/abs/2310.02743)
    subtract in its place ("uncertainty-weighted optimisation", section 3): a deviation has the unit of the score. 0
    gives their mean optimisation.

    Args:
        members: the reward functions, two or more.
        deviations: k, in standard deviations.
        statistics: mean and deviation of each member's scores on one set of responses. A Bradley-Terry reward is known
            up to a constant alone: without them, members that differ by one seem to disagree.
    """

    def __init__(
        self,
        members: Sequence[RewardFunction],
        deviations: float = 1.0,
        statistics: Sequence[FixedNormalizer] | None = None,
    ):
        self.members, self.deviations = list(members), deviations
        self.statistics = statistics or [FixedNormalizer(0.0, 1.0)] * len(self.members)

    def judge(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Judged:
        found = []
        for number, (member, stored) in enumerate(zip(self.members, self.statistics, strict=True)):
            scores = checked(member(prompts, completions), completions, f"member {number} of the ensemble")
            found.append(stored(scores))
        members = torch.tensor(found, dtype=torch.float64)
        disagreement = members.std(dim=0, unbiased=False)
        return Judged((members.mean(dim=0) - self.deviations * disagreement).tolist(), disagreement.tolist())

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return self.judge(prompts, completions).scores
