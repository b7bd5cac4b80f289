from types import SimpleNamespace

import pytest
from datasets import Dataset

from rlhf.errors import TrainingError
from rlhf.evaluation.reward_card import grading
from rlhf.evaluation.reward_card.grading import Policy, grade, score_statistics
from tests.conftest import composed
from tests.evaluation.reward_card.conftest import Counting, pairs_of

STAGE = composed("stage=evaluate_reward", "stage.probe_rows=0", "stage.bootstrap=50", "stage.tfidf_pairs=20").stage


class Scorer(Counting):
    tokenizer, max_length, batch_size = None, None, 4


def splits() -> dict[str, Dataset]:
    return {split: Dataset.from_list(pairs_of(split)) for split in ("train", "validation", "test")}


def test_the_mean_of_members_is_graded_and_their_disagreement_reported() -> None:
    good, longer = Scorer(lambda text: 2.0 * ("good" in text)), Scorer(lambda text: len(text) / 100)
    single = grade("one", [good], splits(), None, STAGE, seed=0)
    both = grade("two", [good, longer], splits(), None, STAGE, seed=0)
    assert single.members == {}
    assert both.members["accuracy"][0] == single.accuracy
    assert both.pairs.chosen_scores == pytest.approx(
        [(2.0 * ("good" in text) + len(text) / 100) / 2 for text in both.pairs.chosen.completions]
    )
    assert 0 < both.members["split"] < 1
    assert "the score is the mean over 2 members" in both.notes
    assert any("without stage.policy" in note for note in single.notes)


def test_statistics_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [SimpleNamespace(text=text) for text in ("a", "aaa")]
    monkeypatch.setattr(grading, "generate", lambda *_, **__: said)
    stage = SimpleNamespace(statistics_prompts=2, sample_length=4, statistics_temperature=0.7)
    policy = Policy("some/policy", None, None)
    found = score_statistics([Scorer(len), Scorer(lambda text: -2.0 * len(text))], policy, ["p", "q"], stage, 0)
    assert found[0] == {"scores/mean": 2.0, "scores/std": pytest.approx(2**0.5)}
    assert found[1] == {"scores/mean": -4.0, "scores/std": pytest.approx(8**0.5)}
    with pytest.raises(TrainingError, match="gives every response of some/policy the score 1.0: raise"):
        score_statistics([Scorer(lambda text: 1.0)], policy, ["p", "q"], stage, 0)
