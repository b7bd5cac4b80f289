import random
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf.evaluation.reward_card import probes
from rlhf.evaluation.reward_card.pairs import score_pairs
from rlhf.rewards import RewardModel

DRAW = random.Random(0)
TEXT = " Lima is the capital of Peru."


@pytest.fixture(scope="module")
def scorer(chain: Path) -> RewardModel:
    folder = chain / "almanac" / "reward" / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return RewardModel(model, AutoTokenizer.from_pretrained(folder), max_length=128)


def test_each_perturbation() -> None:
    assert probes.truncated(TEXT, DRAW).split() == ["Lima", "is", "the"]
    assert probes.truncated("one two three four", DRAW) == "one two"
    assert probes.truncated("one", DRAW) == "one"
    assert probes.repeated(TEXT, DRAW) == f"{TEXT}{TEXT}"
    assert probes.repeated("Yes", DRAW) == "Yes Yes"
    assert probes.repeated(" ", DRAW) == " "
    shuffled = probes.shuffled(TEXT, random.Random(1))
    assert shuffled != TEXT
    assert sorted(shuffled.split()) == sorted(TEXT.split())
    assert shuffled.startswith(" ")
    assert probes.shuffled("word", DRAW) == "word"
    flattered = probes.flattery(" Yes.", DRAW)
    assert flattered.startswith(" What a brilliant question")
    assert " Yes. " in flattered


def test_the_end_of_a_response_is_removed(scorer: RewardModel) -> None:
    tokenizer = scorer.tokenizer
    for prompt, text in ((" Once upon", " a time"), ([{"role": "user", "content": "Hm?"}], "Lima.")):
        whole = scorer.encode(prompt, text)
        cut = probes.without_end(whole, tokenizer)
        assert cut == whole[: len(cut)]
        assert tokenizer.decode(cut).endswith(text.strip())
        assert tokenizer.eos_token_id in whole[len(cut) :]
        assert probes.without_end(cut, tokenizer) == cut


def test_another_prompt_is_never_the_same() -> None:
    keys = ["a", "a", "b", "c"]
    found = probes.another_prompt(keys, seed=3)
    assert all(keys[other] != key for key, other in zip(keys, found, strict=True))
    assert found == probes.another_prompt(keys, seed=3)
    assert probes.another_prompt(["a", "a"], seed=0) == [None, None]


def test_falling_scores_are_counted(scorer: RewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reward is minus the number of tokens: cuts raise it, additions lower it, another prompt is a tie."""
    monkeypatch.setattr(scorer, "score", lambda rows: [-float(len(row)) for row in rows])
    rows = [{"prompt": "Aa", "chosen": " one two three", "rejected": " x"}] * 1
    rows += [{"prompt": "Bb", "chosen": " word", "rejected": " x"}]
    found = probes.probe(score_pairs(rows, scorer), scorer, count=10, seed=0)
    assert list(found) == list(probes.PROBES)
    assert (found["truncated"].fell.mean, found["truncated"].fell.count, found["truncated"].left_out) == (0.0, 1, 1)
    assert (found["repeated"].fell.mean, found["repeated"].fell.count) == (1.0, 2)
    assert (found["flattery"].fell.mean, found["flattery"].left_out) == (1.0, 0)
    assert (found["eos_removed"].fell.mean, found["eos_removed"].change) == (0.0, 1.0)
    assert found["prompt_swapped"].fell.count == 2
    assert found["truncated"].change > 0 > found["flattery"].change


def test_rows_are_sampled_with_the_seed(scorer: RewardModel) -> None:
    rows = [{"prompt": f"q{i}", "chosen": f" number {i} it is", "rejected": " x"} for i in range(12)]
    scored = score_pairs(rows, scorer)
    assert probes.probe(scored, scorer, count=5, seed=1) == probes.probe(scored, scorer, count=5, seed=1)
    assert probes.probe(scored, scorer, count=5, seed=1) != probes.probe(scored, scorer, count=5, seed=2)
    assert probes.probe(scored, scorer, count=0, seed=1) == {}
