import logging
from array import array

import pytest

from rlhf.data.checks import Survey, digest, distinct, ends_early, found_in, leaks, oddities, refuse_leaks, survey
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
    found = leaks(TRAIN, [{"prompt": "b"}, {"prompt": "c"}])
    with pytest.raises(DataError, match=r"1 row of x \(50.0%\).*also in y, such as 'b': remove.*data.allow_leaks=true"):
        refuse_leaks(found, "y", "x", allow=False)
    with caplog.at_level(logging.WARNING, logger="rlhf"):
        refuse_leaks(found, "y", "x", allow=True)
    assert "1 row of x" in caplog.text
    refuse_leaks(leaks(TRAIN, [{"prompt": "c"}]), "y", "x", allow=False)


def test_digests_are_counted_in_place_and_in_parts() -> None:
    values = array("Q", [5, 2**64 - 1, 5, 7, 1])
    assert distinct(values) == 4
    assert list(values) == [1, 5, 5, 7, 2**64 - 1]
    for part in (1, 2, 10):
        assert found_in(array("Q", [0, 5, 6, 2**64 - 1, 5]), values, part) == 3


def test_a_survey_by_hand() -> None:
    cut = "one two three four five six seven eight nine ten " * 2
    rows = [
        {"prompt": "a", "chosen": "long", "rejected": "no", "source": "s"},
        {"prompt": "a", "chosen": "no", "rejected": "long", "source": "s"},
        {"prompt": "a", "chosen": "long", "rejected": "no"},
        {"prompt": "b", "chosen": " ", "rejected": cut},
        {"prompt": "c", "chosen": "yes", "rejected": "yes"},
    ]
    assert survey(rows) == Survey(
        rows=5,
        prompts=3,
        sources={"(none)": 3, "s": 2},
        duplicates=1,
        identical=1,
        contradicting=3,
        empty={"chosen": 1},
        truncated={"rejected": 1},
        longer=(1 + 0 + 1 + 0 + 0.5) / 5,
    )
    assert survey(rows).problems() == [
        "1 of 5 rows (20.0%) repeat an earlier row",
        "1 of 5 rows (20.0%) have chosen and rejected the same",
        "3 of 5 rows (60.0%) are contradicted by another pair (chosen and rejected swapped)",
        "1 of 5 rows (20.0%) have an empty chosen",
    ]
    assert survey([]) == Survey()
    assert survey([{"text": "a"}, {"text": "a"}]).duplicates == 1


def test_a_text_that_ends_within_a_sentence() -> None:
    words = "word " * 20
    assert [ends_early(words + end) for end in ("and", "and,", "end.", "end!", "```", "")] == [
        True,
        True,
        *[False] * 3,
        True,
    ]
    assert not ends_early("Lima")


def test_oddities_are_named() -> None:
    row = {"prompt": [user("Q")], "chosen": [assistant("A")], "rejected": [assistant(" ")]}
    assert oddities(row) == ["empty rejected"]
    row["rejected"] = [assistant("B"), assistant("C")]
    assert oddities(row) == ["two turns of one role in a row", "completions that differ before the last turn"]
    assert oddities({"prompt": "Q", "completion": "A"}) == []
    assert oddities({"prompt": "Q", "chosen": "A", "rejected": "B", "margin": -0.5}) == ["a margin below zero"]


def test_a_digest_is_the_same_in_every_process_and_never_zero() -> None:
    assert digest("Lima") == 9195647870124695965
    assert all(digest(str(n)) > 0 for n in range(1_000))
