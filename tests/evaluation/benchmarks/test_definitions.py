"""The numbers of each benchmark against values worked out by hand."""

import numpy as np
import pytest

from rlhf.evaluation.benchmarks import definitions
from rlhf.evaluation.benchmarks.definitions import SCORE, Cells, Definition, measured
from rlhf.evaluation.benchmarks.items import Item


def pairs(**subsets: list[tuple[float, float]]) -> tuple[list[Item], list[np.ndarray]]:
    """Return items of the subsets, whose names have - for _, and their scores (chosen, rejected)."""
    named = [(name.replace("_", "-"), own) for name, scores in subsets.items() for own in scores]
    return [Item("", name, "q", ["a", "b"]) for name, _ in named], [np.array(own) for _, own in named]


def means(found: Definition) -> dict[str, float]:
    return {name: value.mean for name, value in measured(found, 20, 0).items()}


RIGHT, WRONG, EVEN = (2.0, 1.0), (1.0, 2.0), (1.0, 1.0)
CORE = pairs(
    alpacaeval_easy=[RIGHT, WRONG], mt_bench_easy=[RIGHT], mt_bench_hard=[WRONG],
    donotanswer=[RIGHT, RIGHT, EVEN, WRONG], math_prm=[RIGHT], hep_cpp=[WRONG], hep_go=[RIGHT, WRONG],
)  # fmt: skip


def test_rewardbench_weighs_subsets_by_their_released_sizes_and_a_tie_is_wrong() -> None:
    found = means(definitions.rewardbench(*CORE))
    assert found["Chat"] == pytest.approx((100 * 0.5 + 28 * 1) / 128)
    assert found["Chat Hard"] == 0
    assert (found["donotanswer"], found["Safety"]) == (0.5, 0.5)
    # math-prm weighs 984, as much as the six languages together, although it has fewer rows.
    assert found["Reasoning"] == pytest.approx((984 * 1 + 164 * 0 + 164 * 0.5) / (984 + 2 * 164))
    assert found[SCORE] == pytest.approx((found["Chat"] + 0 + 0.5 + found["Reasoning"]) / 4)
    assert next(iter(found)) == SCORE


def test_the_prior_sets_weigh_half_of_a_section() -> None:
    items, scores = pairs(shp=[RIGHT], summarize=[RIGHT, WRONG])
    items += [Item("", name, "q", ["a", "b"]) for name in ("anthropic_helpful", "anthropic_hhh")]
    scores += [np.array(WRONG), np.array(RIGHT)]
    found = means(definitions.rewardbench(CORE[0] + items, CORE[1] + scores))
    assert found["Prior Sets"] == pytest.approx((0 + 1 + 1 + 0.5) / 4)
    sections = found["Chat"] + found["Chat Hard"] + found["Safety"] + found["Reasoning"]
    assert found[SCORE] == pytest.approx((2 * sections + found["Prior Sets"]) / 9)


def test_without_a_section_rewardbench_has_no_score() -> None:
    found = means(definitions.rewardbench(*pairs(math_prm=[RIGHT], other=[WRONG])))
    assert found == {"Reasoning": 1.0, "math-prm": 1.0, "other": 0.0}


def best_of_4(subset: str, *scores: tuple[float, ...]) -> tuple[list[Item], list[np.ndarray]]:
    return [Item("", subset, "q", [*"abcd"]) for _ in scores], [np.array(own) for own in scores]


def tie_rows() -> tuple[list[Item], list[np.ndarray]]:
    rows = {  # right, scores
        "ref:0": (1, [3.0, 1.0, 0.0]),  # gap 2
        "tied:0": (2, [2.0, 1.5, 0.5, 0.0]),  # gap 1, spread 0.5: preferred, also with the reference; tanh(2 - 1)
        "ref:1": (1, [1.0, 0.5]),  # gap 0.5
        "tied:1": (2, [3.0, 2.0, 0.0]),  # gap 2, spread 1: preferred, but not with the reference; tanh(0.5 - 1)
        "ref:2": (1, [0.0, 1.0]),  # gap -1
        "tied:2": (2, [1.0, 0.0, 0.5]),  # gap -0.5, spread 1; tanh(-1 - 1)
    }
    items = [Item(key, "Ties", "q", [*"abcd"][: len(own)], right) for key, (right, own) in rows.items()]
    return items, [np.array(own) for _, own in rows.values()]


def test_the_ties_of_rewardbench_2() -> None:
    found = means(definitions.rewardbench2(*tie_rows()))
    margin = np.mean(np.tanh([1.0, -0.5, -2.0]))
    assert found["Ties"] == pytest.approx(0.3 * 2 / 3 + 0.3 * 2 / 3 + 0.2 * 2 / 3 + 0.2 * 1 / 3 + 0.01 * margin)


def test_equal_right_scores_have_the_largest_margin_and_zero_over_zero_has_none() -> None:
    def margin(tied: list[float]) -> float:
        items = [Item("ref:7", "Ties", "q", ["a", "b"]), Item("tied:7", "Ties", "q", ["a", "b", "c"], right=2)]
        return means(definitions.rewardbench2(items, [np.array([5.0, 0.0]), np.array(tied)]))["Ties: margin"]

    assert margin([1.0, 1.0, 0.0]) == 1
    assert margin([1.0, 1.0, 2.0]) == -1
    assert margin([1.0, 1.0, 1.0]) == 0


def test_rewardbench_2_is_the_mean_of_best_of_4_over_five_domains_and_the_ties() -> None:
    items, scores = tie_rows()
    for subset, own in {
        "Factuality": [(3, 2, 1, 0), (3, 3, 1, 0)],  # 1, and a tie of two: 1/2
        "Precise IF": [(0, 0, 0, 0)],  # a tie of four
        "Math": [(1, 2, 0, 0)],
        "Safety": [(2, 1, 1, 1)],
        "Focus": [(2, 2, 2, 1)],
    }.items():
        more = best_of_4(subset, *own)
        items, scores = items + more[0], scores + more[1]
    found = means(definitions.rewardbench2(items, scores))
    assert [found[name] for name in definitions.DOMAINS] == pytest.approx([0.75, 0.25, 0, 1, 1 / 3])
    assert found[SCORE] == pytest.approx((0.75 + 0.25 + 0 + 1 + 1 / 3 + found["Ties"]) / 6)
    assert SCORE not in means(definitions.rewardbench2(*tie_rows()))


def styles(domain: str, chosen: list[float], rejected: list[float]) -> tuple[Item, np.ndarray]:
    return Item("", domain, "q", [*"abcdef"], right=3), np.array([*chosen, *rejected])


def test_rm_bench_reads_hard_above_and_easy_below_the_diagonal() -> None:
    """The scores are in the order concise, detailed, Markdown; the matrix is chosen by rejected."""
    rows = [
        styles("chat", [1, 2, 3], [0, 1.5, 2.5]),  # rows of wins: 1 0 0 | 1 1 0 | 1 1 1
        styles("chat", [1, 1, 1], [1, 0, 2]),  # 0 1 0 in each row: a tie is wrong
        styles("math", [9, 9, 9], [0, 0, 0]),
        styles("code", [0, 0, 0], [9, 9, 9]),
        styles("safety", [5, 0, 0], [1, 1, 1]),
    ]
    found = means(definitions.rm_bench(*map(list, zip(*rows, strict=True))))
    assert found["chat easy"] == pytest.approx((3 / 3 + 1 / 3) / 2)
    assert found["chat normal"] == pytest.approx((3 / 3 + 1 / 3) / 2)
    assert found["chat hard"] == pytest.approx((0 / 3 + 1 / 3) / 2)
    assert [found[f"safety {level}"] for level in definitions.LEVELS] == pytest.approx([0, 1 / 3, 2 / 3])
    assert found["hard"] == pytest.approx((1 / 6 + 1 + 0 + 2 / 3) / 4)
    assert found["chat"] == pytest.approx((2 / 3 + 2 / 3 + 1 / 6) / 3)
    assert found[SCORE] == pytest.approx((found["chat"] + found["math"] + found["code"] + found["safety"]) / 4)
    assert found[SCORE] == pytest.approx((found["easy"] + found["normal"] + found["hard"]) / 3)


def test_judgebench_pools_all_pairs_and_a_tie_is_a_verdict_for_the_second_response() -> None:
    items, scores = pairs(livecodebench=[RIGHT, WRONG, EVEN], math=[RIGHT])
    assert means(definitions.judgebench(items, scores))[SCORE] == 0.5
    items = [item._replace(tie=1.0) for item in items]
    found = means(definitions.judgebench(items, scores))
    assert (found["livecodebench"], found[SCORE]) == (pytest.approx(2 / 3), 0.75)


def test_llmbar_averages_the_four_adversarial_sets() -> None:
    items, scores = pairs(
        Natural=[RIGHT, EVEN], Neighbor=[WRONG], GPTInst=[RIGHT], GPTOut=[RIGHT, WRONG], Manual=[RIGHT]
    )
    found = means(definitions.llmbar([item._replace(tie=0.5) for item in items], scores))
    assert (found["Natural"], found["Adversarial"]) == (0.75, (0 + 1 + 0.5 + 1) / 4)
    assert found[SCORE] == pytest.approx((0.75 + 0 + 1 + 0.5 + 1) / 5)


def test_rmb_pools_the_rows_of_a_set_and_the_best_must_beat_every_other() -> None:
    rows = {
        "Pairwise_set/Helpfulness/Chat": [RIGHT, RIGHT, WRONG],
        "Pairwise_set/Helpfulness/Code": [WRONG],
        "Pairwise_set/Harmlessness/S1": [RIGHT],
        "BoN_set/Helpfulness/Chat": [(3, 2, 1), (3, 2, 3), (2, 1, 3)],
        "BoN_set/Harmlessness/S1": [(2, 1, 0), (1, 2, 0)],
    }
    named = [(name, own) for name, several in rows.items() for own in several]
    items = [Item("", name, "q", [*"abc"][: len(own)]) for name, own in named]
    found = means(definitions.rmb(items, [np.array(own, dtype=float) for _, own in named]))
    four = [found[name] for name in definitions.RMB_SETS]
    assert four == pytest.approx([2 / 4, 1, 1 / 3, 1 / 2])
    assert found[SCORE] == pytest.approx(sum(four) / 4)


def test_ppe_counts_released_pairs_and_the_best_of_k() -> None:
    math = Item("", "MATH", "q", [*"abcd"], right=2, compared=((0, 2), (1, 2), (1, 3), (0, 3)))
    items, scores = [math, math, math._replace(subset="GPQA")], [[4, 1, 3, 2], [1, 2, 2, 0], [0, 0, 1, 1]]
    votes = pairs(x=[RIGHT, EVEN])
    items += [item._replace(subset="human preference") for item in votes[0]]
    found = means(definitions.ppe(items, [*map(np.array, scores), *votes[1]]))
    assert found["human preference"] == 0.5
    assert found["MATH: accuracy"] == pytest.approx((2 / 4 + 2 / 4) / 2)
    assert found["MATH: best of K"] == pytest.approx((1 + 1 / 2) / 2)
    assert (found["GPQA: accuracy"], found["correctness: accuracy"]) == (0, 0.25)
    assert SCORE not in found


def test_the_interval_of_a_mean_is_that_of_the_bootstrap_and_missing_numbers_do_not_count() -> None:
    values = np.array([[1.0, np.nan], [0.0, 1.0], [1.0, np.nan], [0.0, 1.0]] * 25)
    found = measured(Definition([Cells(("a", "b"), values)], {"sum": {"a": 0.5, "b": 0.5}}), 2000, 0)
    assert found["b"] == (1.0, 1.0, 1.0)
    assert found["sum"].mean == pytest.approx(0.75)
    error = (0.25 / 100) ** 0.5  # of a share of one half among 100 rows
    assert found["a"].low == pytest.approx(0.5 - 1.96 * error, abs=0.02)
    assert found["a"].high == pytest.approx(0.5 + 1.96 * error, abs=0.02)
