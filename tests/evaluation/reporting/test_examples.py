"""The examples on the page: marked words, gaps, and a bounded size."""

import pytest

from rlhf.evaluation.reporting import examples
from tests.evaluation.making import whole


def test_half_a_surrogate_pair_can_be_written() -> None:
    assert examples.json_block("a\ud800<").encode() == b'"a\\ud800\\u003c"'


def test_words_are_marked_against_the_reference_after_it() -> None:
    responses = examples.data(whole())["prompts"][1]["responses"]
    assert responses["ppo"][0]["pieces"] == ["The ", "ppo", " answer 0 is sample 0."]
    assert responses["sft"][0]["pieces"] == ["The sft answer 0 is sample 0."]
    assert responses["base"][0]["pieces"] == ["The base answer 0 is sample 0."]  # SFT was trained from it


def test_samples_beyond_the_budget_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    example = whole(samples=3)
    one = sum(len(texts[0]) for answers in example.answers.values() for texts in answers.texts)
    whole_gaps = examples.data(example)["prompts"][0]["gaps"]
    for room, samples in ((3 * one, 3), (3 * one - 1, 2), (one, 1)):
        monkeypatch.setattr(examples, "BUDGET", room)
        found = examples.data(example)
        assert (found["samples"], len(found["prompts"][0]["responses"]["sft"])) == (samples, samples)
        assert found["prompts"][0]["gaps"] == whole_gaps
    monkeypatch.setattr(examples, "BUDGET", 0)
    monkeypatch.setattr(examples, "SHORTEST", 10)
    [response] = examples.data(example)["prompts"][0]["responses"]["sft"]
    assert "".join(response["pieces"]) == "The sft an"
    assert response["cut"] == len(example.answers["sft"].texts[-1][0]) - 10


def test_gaps_are_those_to_the_parent_by_each_judge() -> None:
    made = whole()
    found = examples.data(made)
    assert found["parents"] == {"sft": "base", "dpo": "sft", "ppo": "sft"}
    assert found["judges"] == ["gold", "reward model"]
    gold = [made.answers[name].scores["gold"][5] for name in ("ppo", "sft")]
    assert found["prompts"][0]["gaps"]["ppo"] == [round((sum(gold[0]) - sum(gold[1])) / 2, 4), 2.0]
