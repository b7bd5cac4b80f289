"""Preference pairs: two responses of known kinds, labelled with Bradley-Terry noise from the gold reward."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from rlhf.almanac.gold import gold
from rlhf.errors import DataError

LABEL_TEMPERATURE = 0.5
"""How noisy the labels are, in units of the gold reward; 0 would be a labeller that never errs."""


def preference_probability(gold_a: float, gold_b: float, temperature: float = LABEL_TEMPERATURE) -> float:
    """P(a preferred to b) = sigmoid((gold_a - gold_b) / temperature): Bradley and Terry (1952).

    Raises ValueError unless temperature > 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be positive.")
    margin = (gold_a - gold_b) / temperature
    return 1 / (1 + math.exp(-margin)) if margin >= 0 else math.exp(margin) / (1 + math.exp(margin))


def prefers_first(gold_a: float, gold_b: float, random: Random, temperature: float = LABEL_TEMPERATURE) -> bool:
    """One noisy label: whether the labeller prefers a."""
    return random.random() < preference_probability(gold_a, gold_b, temperature)


@dataclass(frozen=True)
class NoiseCeiling:
    """How well the gold reward itself predicts noisy labels: no reward model can be expected to do better.

    expected: mean over pairs of sigmoid(|gold_a - gold_b| / temperature), the accuracy over all labels that could have
    been drawn. realised: share of pairs whose chosen response has the higher gold, a tie counting half.
    """

    expected: float
    realised: float
    pairs: int


def noise_ceiling(pairs: Iterable[Mapping[str, Any]], temperature: float = LABEL_TEMPERATURE) -> NoiseCeiling:
    """The noise ceiling of labelled pairs with `prompt`, `chosen` and `rejected`, each a conversation.

    Raises DataError if there is no pair.
    """
    pairs = list(pairs)
    if not pairs:
        raise DataError("There is no preference pair; the noise ceiling needs at least one.")
    prompts = [pair["prompt"] for pair in pairs]
    chosen = gold(prompts, [pair["chosen"][-1]["content"] for pair in pairs])
    rejected = gold(prompts, [pair["rejected"][-1]["content"] for pair in pairs])
    margins = [c - r for c, r in zip(chosen, rejected, strict=True)]
    return NoiseCeiling(
        expected=sum(preference_probability(abs(margin), 0.0, temperature) for margin in margins) / len(pairs),
        realised=sum(1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in margins) / len(pairs),
        pairs=len(pairs),
    )
