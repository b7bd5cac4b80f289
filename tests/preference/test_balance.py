from datasets import Dataset

from rlhf.preference.balance import balanced


def pairs(*lengths: tuple[int, int]) -> Dataset:
    return Dataset.from_list([{"prompt": "p", "chosen": "c" * one, "rejected": "r" * other} for one, other in lengths])


def differences(rows: Dataset) -> list[int]:
    return [len(row["chosen"]) - len(row["rejected"]) for row in rows]


def test_each_bin_has_as_many_longer_as_shorter_chosen_responses() -> None:
    """Bins 1 to 9 and 10 to 19: one of three longer ones stays beside the shorter one, and the last bin loses both."""
    rows = pairs((2, 1), (5, 1), (8, 1), (1, 7), (3, 3), (20, 1), (30, 12), (90, 1))
    found = differences(balanced(rows, 10, 0))
    assert len(found) == 3
    assert found.count(0) == 1
    assert found.count(-6) == 1
    assert sum(0 < one < 10 for one in found) == 1


def test_the_seed_draws_and_the_order_stays() -> None:
    rows = pairs(*[(n + 2, 1) for n in range(9)], (1, 2), (1, 3))
    drawn = {seed: differences(balanced(rows, 10, seed)) for seed in range(8)}
    assert len(set(map(tuple, drawn.values()))) > 1
    assert all(found == [one for one in differences(rows) if one in found] for found in drawn.values())
    assert differences(balanced(rows, 10, 3)) == drawn[3]
