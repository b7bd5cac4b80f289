from typing import Any

from rlhf.data.singles import VALUES, Singles


def rated(values: list[float]) -> list[dict[str, Any]]:
    return [{"rating": value, "origin": "ratings"} for value in values]


def test_counts_of_two_parts_are_those_of_the_whole() -> None:
    rows = [{"label": 1.0, "origin": "thumbs"}, {"label": 0.0, "origin": "pairs"}, *rated([1, 2, 6])]
    whole, first, second = Singles(), Singles(), Singles()
    whole.count(rows)
    first.count(rows[:3])
    second.count(rows[3:])
    first.add(second)
    assert first.told() == whole.told() == {
        "thumbs": {"desirable": 1, "undesirable": 0},
        "pairs": {"desirable": 0, "undesirable": 1},
        "ratings": {"desirable": 1, "undesirable": 2, "from": 3.0},
    }  # fmt: skip


def test_more_different_ratings_than_a_scale_has_are_not_divided() -> None:
    found = Singles()
    found.count(rated([float(n) for n in range(VALUES)]))
    assert found.told()["ratings"]["desirable"] == VALUES / 2
    found.count(rated([n / 2 for n in range(4 * VALUES)]))
    assert found.told() == {}
    assert len(found.ratings) == VALUES + 1
