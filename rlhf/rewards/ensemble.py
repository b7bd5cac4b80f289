"""Several reward models as one, with a penalty on their disagreement, or by the lowest score."""

from collections.abc import Sequence

import torch

from rlhf.data.render import Prompt
from rlhf.rewards.normalization import FixedNormalizer
from rlhf.rewards.protocol import RewardFunction, checked


class Ensemble:
    """mean - ``deviations`` · std over the members' scores of a response, or their minimum, as a RewardFunction.

    It is the population deviation, which has the unit of the score. Coste et al. 2023,
    https://arxiv.org/abs/2310.02743, section 3, subtract the variance instead (uncertainty-weighted optimization);
    with 0 it is their mean optimization, with None their worst-case optimization, the minimum over the members.

    Args:
        members: the reward functions, two or more.
        deviations: k, in standard deviations; None: the minimum.
        statistics: mean and deviation of each member's scores on one set of responses. A Bradley-Terry reward is
            determined only up to a constant: without them, members that differ by a constant seem to disagree.
    """

    def __init__(
        self,
        members: Sequence[RewardFunction],
        deviations: float | None = 1.0,
        statistics: Sequence[FixedNormalizer] | None = None,
    ):
        self.members, self.deviations = list(members), deviations
        self.statistics = statistics or [FixedNormalizer(0.0, 1.0)] * len(self.members)

    def detailed(
        self, prompts: Sequence[Prompt], completions: Sequence[str]
    ) -> tuple[list[float], dict[str, list[float]]]:
        """Return the scores, and the standard deviation of the members' scores as ``disagreement``.

        Raises:
            TrainingError: a member did not return one finite number per completion.
        """
        found = []
        for number, (member, stored) in enumerate(zip(self.members, self.statistics, strict=True)):
            scores = checked(member(prompts, completions), completions, f"member {number} of the ensemble")
            found.append(stored(scores))
        members = torch.tensor(found, dtype=torch.float64)
        disagreement = members.std(dim=0, unbiased=False)
        lowest = self.deviations is None
        scores = members.amin(dim=0) if lowest else members.mean(dim=0) - self.deviations * disagreement
        return scores.tolist(), {"disagreement": disagreement.tolist()}

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return self.detailed(prompts, completions)[0]
