"""Rewards that need no model: length and format."""

import re
from collections.abc import Sequence

from rlhf.data.render import Prompt


class LengthReward:
    """Minus the words by which a completion is shorter than ``min`` or longer than ``max``; 0 between the two.

        score = -max(0, min - n) - max(0, n - max),   n = number of words

    In words and not in tokens, so that it means the same for every tokenizer; None: no bound on that side. A weight
    of 0.1 makes a word cost a tenth of a point. Reward models like length (Singhal et al. 2023,
    https://arxiv.org/abs/2310.03716); this is the plainest counterweight.
    """

    def __init__(self, min: int | None = None, max: int | None = None):
        self.min, self.max = min, max

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [-float(self.excess(len(text.split()))) for text in completions]

    def excess(self, words: int) -> int:
        short = 0 if self.min is None else max(0, self.min - words)
        return short + (0 if self.max is None else max(0, words - self.max))


class FormatReward:
    """1 where a completion has the form that is asked for, else 0.

    It has it where all that is given holds: ``pattern``, a regular expression, is found in it (a dot matches a line
    break too); it ends with one of ``ends_with``, blanks aside; it has at most ``max_words`` words.
    """

    def __init__(
        self, pattern: str | None = None, ends_with: Sequence[str] | None = None, max_words: int | None = None
    ):
        self.pattern = None if pattern is None else re.compile(pattern, re.DOTALL)
        self.ends_with = None if ends_with is None else tuple(ends_with)
        self.max_words = max_words

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [float(self.holds(text)) for text in completions]

    def holds(self, text: str) -> bool:
        return (
            (self.pattern is None or self.pattern.search(text) is not None)
            and (self.ends_with is None or text.rstrip().endswith(self.ends_with))
            and (self.max_words is None or len(text.split()) <= self.max_words)
        )
