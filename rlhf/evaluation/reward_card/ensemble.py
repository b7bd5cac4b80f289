"""The mean of an ensemble's members, which are adapters and heads over one base."""

from collections.abc import Sequence

import numpy as np

from rlhf.data.render import Prompt
from rlhf.rewards import RewardModel


class MeanModel:
    """A reward model whose score is the mean of its members' scores."""

    def __init__(self, members: Sequence[RewardModel]):
        self.members = list(members)
        self.tokenizer, self.max_length = members[0].tokenizer, members[0].max_length

    def encode(self, prompt: Prompt, completion: str) -> list[int]:
        """Return the token ids that are scored, the same for all members."""
        return self.members[0].encode(prompt, completion)

    def score(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Return the score of each row of token ids."""
        return np.mean([member.score(rows) for member in self.members], axis=0).tolist()

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return self.score([self.encode(*row) for row in zip(prompts, completions, strict=True)])


AnyRewardModel = RewardModel | MeanModel
