"""Rewards without a model: length and format."""

import re
from collections.abc import Sequence

from rlhf.data.render import Prompt


class LengthReward:
    """A length penalty: minus the number of words below ``min`` or above ``max``; 0 in between.

        score = -max(0, min - n) - max(0, n - max),   n = number of words

    Words instead of tokens make it independent of the tokenizer; None means no bound. Reward models prefer long
    responses (Singhal et al. 2023, https://arxiv.org/abs/2310.03716); this is the simplest correction.
    """

    def __init__(self, min: int | None = None, max: int | None = None):
        self.min, self.max = min, max

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [-float(self.excess(len(text.split()))) for text in completions]

    def excess(self, words: int) -> int:
        """Return the number of words outside the bounds."""
        short = 0 if self.min is None else max(0, self.min - words)
        return short + (0 if self.max is None else max(0, words - self.max))


class FormatReward:
    """1 if a completion meets all given conditions, else 0.

    ``pattern``: the regular expression matches somewhere in it (a dot also matches line breaks); ``ends_with``: it ends
    with one of these, ignoring trailing whitespace; ``max_words``: it has at most this many words.
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
        """Return whether ``text`` meets all conditions."""
        return (
            (self.pattern is None or self.pattern.search(text) is not None)
            and (self.ends_with is None or text.rstrip().endswith(self.ends_with))
            and (self.max_words is None or len(text.split()) <= self.max_words)
        )
