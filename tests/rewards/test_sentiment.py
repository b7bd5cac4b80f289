"""rlhf/rewards/sentiment.py: the sign of VADER's score, and its absence."""

import sys

import pytest

from rlhf.errors import ConfigError
from rlhf.rewards.sentiment import analyzer, vader


def test_only_the_completion_has_a_sentiment() -> None:
    texts = ["They were happy friends.", "A sad, awful day.", "A table."]
    good, bad, none = vader(["I hate it."] * 3, texts)
    assert -1 <= bad < none == 0 < good <= 1


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    analyzer.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'rlhf\[sentiment\]'"):
        vader([""], ["A table."])
