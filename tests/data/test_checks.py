import logging

import pytest

from rlhf.data import check_leaks, duplicates, leaks, statistics
from rlhf.data.checks import oddities
from rlhf.errors import DataError

TRAIN = [{"prompt": "a"}, {"prompt": "b"}]


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def test_leaks_by_hand() -> None:
    assert leaks(TRAIN, [{"prompt": "c"}, {"prompt": "b"}, {"prompt": "b"}, {"prompt": "d"}]) == (2, 0.5, "b")
    assert leaks(TRAIN, [{"prompt": "c"}]) == (0, 0.0, None)
    assert leaks(TRAIN, []) == (0, 0.0, None)
    assert leaks([{"text": "t"}], [{"text": "t"}]).count == 1


def test_a_leak_is_refused_unless_it_is_allowed(caplog: pytest.LogCaptureFixture) -> None:
    held_out = [{"prompt": "b"}, {"prompt": "c"}]
    with pytest.raises(DataError, match=r"1 held-out rows \(50.0%\).*'b'; remove them.*data.allow_leaks=true"):
        check_leaks(TRAIN, held_out, allow=False)
    with caplog.at_level(logging.WARNING, logger="rlhf"):
        assert check_leaks(TRAIN, held_out, allow=True).count == 1
    assert "1 held-out rows" in caplog.text
    assert check_leaks(TRAIN, [{"prompt": "c"}], allow=False).count == 0


def test_duplicates_are_rows_equal_in_every_field() -> None:
    row = {"prompt": "a", "chosen": "x", "rejected": "y"}
    assert duplicates([row, row | {"rejected": "z"}, row, row]) == 2


def test_statistics_by_hand() -> None:
    rows = [
        {"prompt": "ab", "chosen": "long", "rejected": "no"},
        {"prompt": "abc", "chosen": "a", "rejected": "bc"},
        {"prompt": "abcd", "chosen": "ab", "rejected": "cd"},
    ]
    assert statistics(rows) == {
        "rows": 3,
        "duplicates": 0,
        "prompt_characters": {"median": 3, "max": 4},
        "chosen_characters": {"median": 2, "max": 4},
        "rejected_characters": {"median": 2, "max": 2},
        "longer_chosen": 1 / 3,
    }
    assert statistics([{"prompt": [user("ab"), assistant("c")]}])["prompt_characters"] == {"median": 3, "max": 3}


def test_oddities_are_named() -> None:
    row = {"prompt": [user("Q")], "chosen": [assistant("A")], "rejected": [assistant(" ")]}
    assert oddities(row) == ["empty rejected"]
    row["rejected"] = [assistant("B"), assistant("C")]
    assert oddities(row) == ["two turns of one role in a row", "completions that differ before the last turn"]
    assert oddities({"prompt": "Q", "completion": "A"}) == []
