import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.errors import DataError
from rlhf.preference.rankings import Collator, Ranking, by_ranking, rankings


def pair(better: str, worse: str, prompt: str = "q") -> dict:
    return {"prompt": prompt, "chosen": better, "rejected": worse}


def test_all_pairs_give_the_whole_ranking_whatever_their_order() -> None:
    rows = [pair("b", "c"), pair("a", "c"), pair("a", "b")]
    for order in itertools.permutations(rows):
        assert rankings(order) == [Ranking("q", ["a", "b", "c"], 2)]


def test_the_best_against_the_others_ranks_only_the_best() -> None:
    [found] = rankings([pair("best", "x"), pair("best", "y"), pair("best", "z")])
    assert found == Ranking("q", ["best", "x", "y", "z"], 1)


def test_adjacent_pairs_give_the_whole_ranking() -> None:
    assert rankings([pair("b", "c"), pair("a", "b")]) == [Ranking("q", ["a", "b", "c"], 2)]


def test_a_pair_is_a_ranking_of_two_and_prompts_stay_apart() -> None:
    rows = [pair("a", "b"), pair("c", "d"), pair("a", "b", "another")]
    assert rankings(rows) == [
        Ranking("q", ["a", "b"], 1),
        Ranking("q", ["c", "d"], 1),
        Ranking("another", ["a", "b"], 1),
    ]


@pytest.mark.parametrize(
    "rows",
    [
        [pair("a", "b"), pair("b", "a")],
        [pair("a", "b"), pair("b", "c"), pair("c", "a")],
        [pair("a", "c"), pair("b", "c")],  # the order of a and b is unknown
        [pair("a", "b"), pair("a", "c"), pair("b", "d")],
    ],
)
def test_pairs_that_are_not_a_ranking_are_refused(rows: list[dict]) -> None:
    with pytest.raises(DataError, match=r"the pairs of the prompt 'q' do not rank its responses: stage.loss="):
        rankings(rows)


@given(st.integers(2, 6), st.randoms(use_true_random=False))
def test_rankings_are_reconstructed(size: int, draw) -> None:
    order = [f"r{i}" for i in range(size)]
    rows = [pair(a, b) for a, b in itertools.combinations(order, 2)]
    draw.shuffle(rows)
    assert rankings(rows) == [Ranking("q", order, size - 1)]


def test_conversations_are_ranked_like_texts() -> None:
    talk = [{"role": "user", "content": "q"}]
    answers = [[{"role": "assistant", "content": text}] for text in "ab"]
    assert rankings([{"prompt": talk, "chosen": answers[0], "rejected": answers[1]}]) == [Ranking(talk, answers, 1)]


def test_a_batch_is_padded_and_split_again() -> None:
    batch = Collator(pad_token_id=9)(
        [
            {"response_ids": [[1, 2, 3], [4]], "ordered": 1},
            {"response_ids": [[5, 6], [7], [8, 8]], "ordered": 2},
        ]
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9], [5, 6, 9], [7, 9, 9], [8, 8, 9]]
    assert batch["attention_mask"].sum(-1).tolist() == [3, 1, 2, 1, 2]
    scores, mask = by_ranking(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), batch["sizes"])
    assert scores.tolist() == [[1, 2, 0], [3, 4, 5]]
    assert mask.tolist() == [[True, True, False], [True, True, True]]
    assert batch["ordered"].tolist() == [1, 2]
