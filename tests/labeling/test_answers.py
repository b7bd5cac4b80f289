from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.errors import DataError
from rlhf.labeling.answers import Answers, agreement, vote
from rlhf.labeling.pairs import Pair

PAIRS = [Pair(f"p{i}", "a", "b", ("s", "s")) for i in range(4)]
IDS = [pair.id for pair in PAIRS]


def opened(path: Path, annotators: int = 1) -> Answers:
    return Answers(path, PAIRS, annotators, seed=0)


def test_an_answer_is_on_disk_before_the_next_pair(tmp_path: Path) -> None:
    answers = opened(tmp_path / "answers.jsonl")
    for number, pair in enumerate(PAIRS, 1):
        assert answers.next("ann") == pair
        assert answers.add("ann", pair.id, "first")
        assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == number
    assert answers.complete
    assert answers.next("ann") is None


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_kill_loses_only_the_unfinished_line(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "answers.jsonl"
    answers = opened(path)
    for key in IDS[:3]:
        answers.add("ann", key, "second")
    path.write_bytes(path.read_bytes()[:-cut])
    again = opened(path)
    assert again.progress("ann") == (2, 4)
    assert again.add("ann", IDS[2], "tie")
    assert opened(path).by_pair()[IDS[2]] == {"ann": "tie"}


@pytest.mark.parametrize(
    "line", ["{", "[]", "\xff", '{"pair": "p1"}', '{"annotator": "ann", "pair": "p1", "verdict": "nonsense"}', "null"]
)
def test_a_corrupted_line_is_reported(tmp_path: Path, line: str) -> None:
    path = tmp_path / "answers.jsonl"
    opened(path).add("ann\u2028", IDS[0], "first")  # a line separator for str.splitlines, but valid in a name
    whole = path.read_bytes()
    path.write_bytes(whole + line.encode("latin-1") + b"\n" + whole)
    with pytest.raises(DataError, match=f"{path}:2: the line is corrupted: correct or delete it"):
        opened(path)
    path.write_bytes(whole)
    assert opened(path).by_pair()[IDS[0]] == {"ann\u2028": "first"}


def test_an_annotator_answers_a_pair_once(tmp_path: Path) -> None:
    answers = opened(tmp_path / "answers.jsonl", annotators=2)
    assert answers.add("ann", IDS[0], "first")
    assert not answers.add("ann", IDS[0], "second")
    assert not answers.add("ann", "no such pair", "second")
    assert answers.add("ben", IDS[0], "tie")
    assert answers.by_pair()[IDS[0]] == {"ann": "first", "ben": "tie"}


def test_undo_takes_back_the_last_answer_of_the_annotator(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    answers = opened(path, annotators=2)
    answers.add("ann", IDS[0], "first")
    answers.add("ann", IDS[1], "first")
    answers.add("ben", IDS[0], "first")
    assert answers.undo("ann")
    assert answers.next("ann") == PAIRS[1]
    assert opened(path, 2).by_pair() == answers.by_pair()
    assert answers.undo("ann")
    assert not answers.undo("ann")
    assert answers.by_pair()[IDS[0]] == {"ben": "first"}


def test_a_pair_stays_open_until_enough_annotators_have_answered(tmp_path: Path) -> None:
    answers = opened(tmp_path / "answers.jsonl", annotators=2)
    for key in IDS:
        answers.add("ann", key, "first")
    assert not answers.complete
    assert answers.next("ann") is None
    for key in IDS:
        answers.add("ben", key, "skip")
    assert answers.complete
    assert answers.next("eve") is None


def test_sides_are_random_but_reproducible(tmp_path: Path) -> None:
    many = [Pair(f"p{i}", "a", "b", ("s", "s")) for i in range(400)]
    answers = Answers(tmp_path / "answers.jsonl", many, 1, seed=0)
    swapped = [answers.swapped("ann", pair.id) for pair in many]
    assert 150 < sum(swapped) < 250
    assert swapped == [answers.swapped("ann", pair.id) for pair in many]
    assert swapped != [answers.swapped("ben", pair.id) for pair in many]


@pytest.mark.parametrize(
    ("verdicts", "share"),
    [
        (["first"], 1.0), (["second", "second"], 0.0), (["first", "second"], 0.5), (["first", "tie"], 0.75),
        (["skip"], None), ([], None), (["skip", "second"], 0.0),
    ],
)  # fmt: skip
def test_votes(verdicts: list[str], share: float | None) -> None:
    assert vote(verdicts) == share


def test_agreement_by_hand() -> None:
    """Cohen 1960: 2 of 4 agree; each annotator says first three times and second once, so p_e = (9 + 1) / 16."""
    verdicts = [("first", "first"), ("first", "first"), ("first", "second"), ("second", "first")]
    answers = {str(i): {"ann": a, "ben": b} for i, (a, b) in enumerate(verdicts)}
    found = agreement(answers)
    assert found["agreement"] == 0.5
    assert found["kappa"] == pytest.approx((0.5 - 0.625) / (1 - 0.625))


def test_agreement_needs_two_answers() -> None:
    assert agreement({"0": {"ann": "first"}, "1": {"ann": "first", "ben": "skip"}}) == {}


@given(st.lists(st.sampled_from(["first", "second", "tie"]), min_size=2, max_size=20))
def test_equal_verdicts_have_an_agreement_of_one(verdicts: list[str]) -> None:
    found = agreement({str(i): {"ann": verdict, "ben": verdict} for i, verdict in enumerate(verdicts)})
    assert found == {"agreement": 1.0, "kappa": 1.0}
