import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlhf.data.render import Prompt
from rlhf.errors import DataError
from rlhf.labeling.pairs import (
    Pair,
    demonstration,
    disagreement,
    draw,
    labeled,
    preference,
    read_responses,
    scored_by_wins,
    write_rows,
)


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


def lengths(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    return [float(len(text)) for text in completions]


def test_pairs_on_which_reward_models_disagree_come_first() -> None:
    """They agree that "b" is as good as "a"; the longer the other response, the more they differ."""
    samples = {"sample": [row("p", "a", "b", "cc"), row("q", "d", "eeee")]}
    doubts = disagreement([lengths, lambda *batch: [-one for one in lengths(*batch)]])
    pairs, _ = draw(samples, 1, None, 0, doubts)
    assert {pairs[0].first, pairs[0].second} == {"d", "eeee"}
    assert "cc" in (pairs[1].first, pairs[1].second)
    assert len(pairs) == 2
    assert len(draw(samples, 3, None, 0, doubts)[0]) == 4
    assert draw(samples, 3, 2, 0, doubts)[0] == draw(samples, 3, None, 0, doubts)[0][:2]


def test_doubts_by_hand() -> None:
    """Members with σ(1) and σ(-1) differ by 0.462, which is twice the deviation; one model doubts equal scores most."""
    pairs = [Pair("p", "a", "bb", ("s", "s")), Pair("p", "a", "b", ("s", "s"))]
    both = disagreement([lengths, lambda *batch: [-one for one in lengths(*batch)]])(pairs)
    assert both == pytest.approx([0.2310586**2, 0.0])
    assert disagreement([lengths])(pairs) == pytest.approx([0.7310586 * 0.2689414, 0.25])


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


def test_verdicts_become_the_mean_preference_over_the_others() -> None:
    """a beats b and ties with c, b beats c; nobody decides on d."""
    pairs = [Pair("p", first, second, ("", "")) for first, second in ("ab", "ac", "bc", "ad")]
    [row] = scored_by_wins(pairs, [1.0, 0.5, 1.0, None])
    assert row == {"prompt": "p", "responses": ["a", "b", "c"], "scores": [0.75, 0.5, 0.25]}


def test_labels_are_read_back_as_pairs_of_the_better_and_the_worse(tmp_path: Path) -> None:
    spoken = [{"role": "user", "content": "p"}]
    rows = [
        preference(Pair("p", "good", "bad", ("s", "s")), 1.0, "person"),
        preference(Pair("q", "bad", "good", ("s", "s")), 0.0, "person"),
        preference(Pair(spoken, "good", "bad", ("s", "s")), 1.0, "person"),
    ]
    write_rows(tmp_path / "preferences.jsonl", rows)
    found = labeled(tmp_path / "preferences.jsonl")
    assert {(pair.first, pair.second) for pair in found} == {("good", "bad")}
    assert [pair.prompt for pair in found] == ["p", "q", spoken]


def test_separators_of_lines_within_a_text_do_not_end_its_row(tmp_path: Path) -> None:
    text = "a\u2028b\x85c\x0cd"
    rows = [row("p", text), preference(Pair("p", text, "bad", ("s", "s")), 1.0, "person")]
    for one in rows:
        write_rows(tmp_path / "rows.jsonl", [one])
        if "responses" in one:
            assert read_responses(tmp_path / "rows.jsonl")[0]["responses"] == [text]
        else:
            assert labeled(tmp_path / "rows.jsonl")[0].first == text


def test_a_demonstration_has_the_type_of_its_prompt() -> None:
    assert demonstration("p", "r") == {"prompt": "p", "completion": "r"}
    spoken = demonstration([{"role": "user", "content": "p"}], "r")
    assert spoken["completion"] == [{"role": "assistant", "content": "r"}]
