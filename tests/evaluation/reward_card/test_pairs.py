import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.errors import TrainingError
from rlhf.evaluation.reward_card.pairs import by_name, by_number, length_correlation, parts, score_pairs, side


def rows(*pairs: tuple[str, str], **columns: list) -> list[dict]:
    """Return pairs with different prompts; ``columns`` hold one value per pair."""
    return [
        {"prompt": f"q{i}", "chosen": chosen, "rejected": rejected}
        | {name: values[i] for name, values in columns.items()}
        for i, (chosen, rejected) in enumerate(pairs)
    ]


def length(prompts: list, completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


def test_ties_count_half() -> None:
    found = score_pairs(rows(("aa", "a"), ("a", "aa"), ("a", "b")), length)
    assert found.right.tolist() == [1.0, 0.0, 0.5]
    assert found.differences.tolist() == [1.0, -1.0, 0.0]


def test_earlier_turns_of_a_response_belong_to_its_prompt() -> None:
    ask, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    one = side([{"prompt": [ask], "chosen": [answer, ask, {"role": "assistant", "content": "b"}]}], "chosen")
    assert one == ([[ask, answer, ask]], ["b"])
    assert side([{"prompt": "q", "chosen": " a"}], "chosen") == (["q"], [" a"])


def test_a_score_that_is_not_a_number_is_rejected() -> None:
    with pytest.raises(TrainingError, match="nan"):
        score_pairs(rows(("a", "b")), lambda prompts, completions: [float("nan")] * len(completions))


def test_few_values_have_one_part_each() -> None:
    scored = score_pairs(rows(("aa", "a"), ("a", "aa"), ("aaa", "a"), ("bb", "b")), length)
    found = by_number([0.5, 0.5, 0.9, None], scored, str)
    assert [(part.name, part.accuracy.mean, part.accuracy.count) for part in found] == [
        ("0.5", 0.5, 2),
        ("0.9", 1.0, 1),
    ]
    assert by_number([None] * 4, scored, str) == []


@given(st.lists(st.integers(-30, 30), min_size=1, max_size=60))
def test_every_pair_is_in_exactly_one_part(values: list[int]) -> None:
    scored = score_pairs(rows(*[("aa", "a")] * len(values)), length)
    found = by_number([float(value) for value in values], scored, lambda value: f"{value:.0f}")
    assert sum(part.accuracy.count for part in found) == len(values)
    assert len(found) <= 5


def test_the_largest_sources_are_first_and_the_rest_is_combined() -> None:
    names = ["rare", "often", "often", *(f"s{i:02}" for i in range(25))]
    scored = score_pairs(rows(*[("aa", "a")] * len(names)), length)
    found = by_name(names, scored)
    assert (found[0].name, found[0].accuracy.count) == ("often", 2)
    assert (found[-1].name, found[-1].accuracy.count) == ("7 others", 7)
    assert sum(part.accuracy.count for part in found) == len(names)


def test_missing_properties_have_no_parts() -> None:
    assert set(parts(score_pairs(rows(("aa", "a")), length))) == {"length difference"}
    known = rows(("aa", "a"), margin=[1.0], confidence=[0.9], source=["x"], task=["y"])
    assert set(parts(score_pairs(known, length))) == {"length difference", "margin", "confidence", "source", "task"}


def test_scores_that_are_lengths_correlate_with_them() -> None:
    scored = score_pairs(rows(("aa", "a"), ("aaaa", "a"), ("a", "bbbbbb")), length)
    assert list(length_correlation(scored).values()) == pytest.approx([1.0, 1.0, 1.0])
    scored.chosen_scores, scored.rejected_scores = np.ones(3), np.ones(3)
    assert list(length_correlation(scored).values()) == [None, None, None]


def test_turns_and_languages_of_the_pairs() -> None:
    ask, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    made = rows(("aa", "a"), ("a", "aa"), language=["Thai", None])
    found = parts(score_pairs(made, length))
    assert [(part.name, part.accuracy.mean) for part in found["language"]] == [("Thai", 1.0)]
    assert "turns" not in found
    made[1] |= {"prompt": [ask, answer, ask], "chosen": [answer], "rejected": [answer | {"content": "aa"}]}
    found = parts(score_pairs(made, length))
    assert [(part.name, part.accuracy.mean) for part in found["turns"]] == [("1", 1.0), ("2", 0.0)]
