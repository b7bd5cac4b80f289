from collections.abc import Callable

import numpy as np
import pytest

from rlhf.evaluation.reward_card import card as cards
from rlhf.evaluation.reward_card.card import Card, disagreement
from rlhf.evaluation.reward_card.pairs import ScoredPairs, Side

Make = Callable[..., Card]


def good(text: str) -> float:
    return 2.0 * ("good" in text)


def test_a_good_model_beats_the_length_baseline(card: Make) -> None:
    found = card(good)
    assert found.accuracy.mean == 21 / 24
    assert found.baselines["longer wins"].accuracy.mean < 0.8
    assert found.baselines["longer wins"].lead.low > 0
    assert found.baselines["TF-IDF"].lead.mean == pytest.approx(0.0)  # a bag of words finds "good", too
    assert found.warnings == [
        "the reward model does not beat TF-IDF: 0.875 vs. 0.875, a lead of +0.000 [+0.000, +0.000] on 24 pairs"
    ]


def test_a_model_that_scores_length_gets_a_warning(card: Make) -> None:
    found = card(len)
    assert found.baselines["longer wins"].lead == (0, 0, 0)
    assert any("does not beat longer wins" in warning for warning in found.warnings)
    assert found.lengths["pearson"] == pytest.approx(1.0)


def test_a_temperature_is_fitted_on_other_pairs(card: Make) -> None:
    """7/8 are right and σ(2) is 0.881: nearly calibrated; a tenfold score is not."""
    calm, loud = card(good).calibration, card(lambda text: 10 * good(text)).calibration
    assert calm.fitted_on == "24 validation pairs"
    assert calm.temperature == pytest.approx(2 / np.log(7), rel=1e-3)
    assert loud.temperature == pytest.approx(20 / np.log(7), rel=1e-3)
    assert loud.error == pytest.approx(1 - 21 / 24, abs=1e-3)
    assert loud.error_after == pytest.approx(0.0, abs=1e-3)
    assert loud.log_loss_after < loud.log_loss


def test_without_a_test_split_the_prompts_are_halved(card: Make) -> None:
    found = card(good, "held out", "held out").calibration
    assert found.fitted_on.startswith("half of the prompts")
    assert len(found.judged) == 12


def test_the_whole_and_its_parts_hold_the_same_pairs(card: Make) -> None:
    found = card(good)
    for parts in found.parts.values():
        assert sum(part.accuracy.count for part in parts) == 24
        whole = sum(part.accuracy.mean * part.accuracy.count for part in parts) / 24
        assert whole == pytest.approx(found.accuracy.mean)


def test_padding_is_the_largest_difference() -> None:
    class Padded:
        def encode(self, prompt: str, completion: str) -> list[int]:
            return [len(completion)]

        def score(self, rows: list[list[int]]) -> list[float]:
            return [row[0] + (0.25 if len(rows) > 1 and row[0] == 2 else 0.0) for row in rows]

    assert cards.padding(Side(["q"] * 3, ["a", "aa", "aaa"]), Padded()) == 0.25


def scored(chosen: list[float], rejected: list[float]) -> ScoredPairs:
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(len(chosen))]
    return ScoredPairs(rows, Side([], []), Side([], []), np.array(chosen), np.array(rejected))


def test_disagreement_by_hand() -> None:
    """Two members that differ by a constant agree; two that order one of two pairs differently are split on half."""
    one = scored([1.0, 1.0], [0.0, 0.0])
    same = disagreement([one, scored([8.0, 8.0], [7.0, 7.0])])
    assert (same["deviation"], same["split"], same["accuracy_split"]) == (0.0, 0.0, None)
    assert same["spread"] == pytest.approx(0.5)
    other = disagreement([one, scored([1.0, 0.0], [0.0, 1.0])])
    assert other["split"] == 0.5
    # The members differ by 1 on both responses of the second pair, so their deviation there is ½.
    assert other["deviation"] == pytest.approx(0.25)
    assert other["accuracy_agreed"].mean == 1.0
    assert other["accuracy_split"].mean == 0.5  # the mean of the members has a tie there
    assert [share.mean for share in other["accuracy"]] == [1.0, 0.5]
