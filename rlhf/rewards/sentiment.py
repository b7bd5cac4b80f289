"""Sentiment of English text by a lexicon with rules, VADER: Hutto and Gilbert 2014, PyPI vaderSentiment."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from rlhf.errors import ConfigError


def vader(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """Return the compound score of each completion, in [-1, 1]; the prompt is not scored.

    Raises:
        ConfigError: vaderSentiment is not installed.
    """
    return [analyzer().polarity_scores(text)["compound"] for text in completions]


@cache
def analyzer() -> Any:
    """Return VADER's analyzer, whose lexicon is read once."""
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise ConfigError("rlhf.rewards.sentiment needs VADER: pip install 'rlhf[sentiment]'") from None
    return SentimentIntensityAnalyzer()
