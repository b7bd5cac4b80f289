import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.almanac.preferences import noise_ceiling, preference_probability, prefers_first
from rlhf.errors import DataError

PROMPT = [{"role": "user", "content": "What is the capital of Peru?"}]


def pair(chosen: str, rejected: str) -> dict:
    return {
        "prompt": PROMPT,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def test_probability_by_hand():
    assert preference_probability(1.0, 0.0, temperature=0.5) == pytest.approx(1 / (1 + math.exp(-2)))
    assert preference_probability(0.3, 0.3) == 0.5


def test_probability_does_not_overflow():
    assert preference_probability(1e6, 0.0) == 1.0
    assert preference_probability(0.0, 1e6) == 0.0


@given(st.floats(-2, 3), st.floats(-2, 3), st.floats(0.05, 5))
def test_the_probabilities_of_both_orders_sum_to_one(a: float, b: float, temperature: float):
    total = preference_probability(a, b, temperature) + preference_probability(b, a, temperature)
    assert total == pytest.approx(1)


def test_a_temperature_must_be_positive():
    with pytest.raises(ValueError, match="must be positive"):
        preference_probability(1.0, 0.0, temperature=0.0)


@pytest.mark.parametrize("margin", [0.0, 0.25, 0.75, 1.5])
def test_labels_follow_bradley_and_terry(margin: float):
    generator, draws = random.Random(0), 20_000
    share = sum(prefers_first(margin, 0.0, generator) for _ in range(draws)) / draws
    expected = 1 / (1 + math.exp(-margin / 0.5))
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)


def test_ceiling_by_hand():
    # gold 2.75 over 1.25, then 1.25 under 2.75 (a label that fell the other way), then 1.25 against 1.25
    pairs = [
        pair("The capital of Peru is Lima.", "It depends."),
        pair("It depends.", "The capital of Peru is Lima."),
        pair("It depends.", "That is hard to say."),
    ]
    ceiling = noise_ceiling(pairs, temperature=0.5)
    assert ceiling.expected == pytest.approx((2 / (1 + math.exp(-3)) + 0.5) / 3)
    assert ceiling.realized == pytest.approx((1 + 0 + 0.5) / 3)
    assert ceiling.pairs == 3


def test_no_pairs_is_an_error():
    with pytest.raises(DataError, match="at least one preference pair"):
        noise_ceiling([])
