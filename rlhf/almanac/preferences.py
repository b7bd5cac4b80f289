"""Labels of preference pairs: Bradley-Terry noise on the gold reward, and the accuracy that it allows."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from rlhf.almanac.gold import gold
from rlhf.errors import DataError

LABEL_TEMPERATURE = 0.5
"""The noise of the labels, in units of the gold reward; 0 would be a labeler who never errs."""


def preference_probability(gold_a: float, gold_b: float, temperature: float = LABEL_TEMPERATURE) -> float:
    """Return P(a preferred to b) = sigmoid((gold_a - gold_b) / temperature): Bradley and Terry (1952).

    Raises:
        ValueError: the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be positive")
    margin = (gold_a - gold_b) / temperature
    return 1 / (1 + math.exp(-margin)) if margin >= 0 else math.exp(margin) / (1 + math.exp(margin))


def prefers_first(gold_a: float, gold_b: float, random: Random, temperature: float = LABEL_TEMPERATURE) -> bool:
    """Draw one noisy label: whether the labeler prefers a."""
    return random.random() < preference_probability(gold_a, gold_b, temperature)


@dataclass(frozen=True)
class NoiseCeiling:
    """The accuracy with which the gold reward predicts noisy labels: the highest that a reward model can expect.

    ``expected``: mean over pairs of sigmoid(|gold_a - gold_b| / temperature), the expectation over labels.
    ``realized``: share of pairs whose chosen response has the higher gold; ties count half.
    """

    expected: float
    realized: float
    pairs: int


def noise_ceiling(pairs: Iterable[Mapping[str, Any]], temperature: float = LABEL_TEMPERATURE) -> NoiseCeiling:
    """Return the noise ceiling of labeled pairs with `prompt`, `chosen` and `rejected`, each a conversation.

    Raises:
        DataError: ``pairs`` is empty.
    """
    pairs = list(pairs)
    if not pairs:
        raise DataError("the noise ceiling needs at least one preference pair: check the data")
    prompts = [pair["prompt"] for pair in pairs]
    chosen = gold(prompts, [pair["chosen"][-1]["content"] for pair in pairs])
    rejected = gold(prompts, [pair["rejected"][-1]["content"] for pair in pairs])
    margins = [c - r for c, r in zip(chosen, rejected, strict=True)]
    return NoiseCeiling(
        expected=sum(preference_probability(abs(margin), 0.0, temperature) for margin in margins) / len(pairs),
        realized=sum(1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in margins) / len(pairs),
        pairs=len(pairs),
    )
