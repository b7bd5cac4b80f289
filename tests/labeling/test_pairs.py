import json
from pathlib import Path

import pytest

from rlhf.errors import DataError
from rlhf.labeling.pairs import Pair, draw, preference, read_responses


def row(prompt: object, *responses: str) -> dict:
    return {"prompt": prompt, "responses": list(responses)}


def test_responses_of_one_run_are_compared_with_each_other() -> None:
    pairs, equal = draw({"sample": [row("p", "a", "b", "c")]}, per_prompt=10, limit=None, seed=0)
    assert {frozenset((pair.first, pair.second)) for pair in pairs} == {frozenset(s) for s in ("ab", "ac", "bc")}
    assert equal == 0


def test_only_responses_of_different_runs_are_compared() -> None:
    samples = {"sft": [row("p", "a", "b")], "ppo": [row("p", "c", "d"), row("q", "e", "f")]}
    pairs, _ = draw(samples, per_prompt=10, limit=None, seed=0)
    assert {(pair.first, pair.second) for pair in pairs} == {("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")}
    assert all(pair.titles == ("sft", "ppo") for pair in pairs)


def test_equal_texts_are_left_out_and_counted() -> None:
    pairs, equal = draw({"sample": [row("p", "a", "a", "a")]}, per_prompt=10, limit=None, seed=0)
    assert (pairs, equal) == ([], 3)


def test_a_pair_that_occurs_twice_is_asked_once() -> None:
    pairs, _ = draw({"sample": [row("p", "a", "b"), row("p", "a", "b")]}, per_prompt=10, limit=None, seed=0)
    assert len(pairs) == 1


def test_the_seed_decides_the_pairs() -> None:
    samples = {"sample": [row(f"p{i}", *"abcdef") for i in range(20)]}
    first, again, other = (draw(samples, 2, 15, seed)[0] for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len(first) == 15


def test_a_preference_has_the_type_of_its_prompt() -> None:
    turns = [{"role": "user", "content": "p"}]
    assert preference(Pair("p", "a", "b", ("s", "s")), 0.0, "person") == {
        "prompt": "p", "chosen": "b", "rejected": "a", "source": "person",
    }  # fmt: skip
    found = preference(Pair(turns, "a", "b", ("sft", "ppo")), 1.0, "reward", margin=2.0)
    assert found["chosen"] == [{"role": "assistant", "content": "a"}]
    assert (found["chosen_model"], found["rejected_model"], found["margin"]) == ("sft", "ppo", 2.0)


@pytest.mark.parametrize("line", ["{}", "[]", "no json", json.dumps({"prompt": "p"})])
def test_a_corrupted_row_is_reported(tmp_path: Path, line: str) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_text(json.dumps(row("p", "a")) + "\n" + line + "\n")
    with pytest.raises(DataError, match=r"responses\.jsonl:2: the line lacks"):
        read_responses(path)
