"""The members of an ensemble: adapters and heads of their own over one base."""

from collections.abc import Sequence

import numpy as np

from rlhf.data.render import Prompt
from rlhf.rewards import RewardModel


class MeanModel:
    """The mean of the members' scores, as a reward model."""

    def __init__(self, members: Sequence[RewardModel]):
        self.members = list(members)
        self.tokenizer, self.max_length = members[0].tokenizer, members[0].max_length

    def encode(self, prompt: Prompt, completion: str) -> list[int]:
        return self.members[0].encode(prompt, completion)

    def score(self, rows: Sequence[Sequence[int]]) -> list[float]:
        return np.mean([member.score(rows) for member in self.members], axis=0).tolist()

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return self.score([self.encode(*row) for row in zip(prompts, completions, strict=True)])
