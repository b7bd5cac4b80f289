import pytest

from rlhf.config import Format
from rlhf.data.layouts import JUDGED, Compared, Listed, read, read_lists
from rlhf.data.rows import RowError


def scores(row: dict, layout: Format) -> dict[str, float]:
    """The score of each response of a row, by its text."""
    [ranked] = read(row, layout)
    return {response[-1]["content"]: score for response, score in ranked.responses}


@pytest.mark.parametrize(("layout", "entry"), JUDGED, ids=[f"{name.value}-{n}" for n, (name, _) in enumerate(JUDGED)])
def test_the_better_response_has_the_higher_score_in_every_layout(layout: Format, entry: Compared | Listed) -> None:
    row: dict = {entry.asks: "q"}
    if isinstance(entry, Listed):
        low, high = (1, 2) if entry.sign == 1 else (2, 1)
        listed = [{entry.text: "good", entry.score: high}, {entry.text: "bad", entry.score: low}]
        row |= {entry.responses: listed} if entry.text else {entry.responses: ["good", "bad"], entry.score: [high, low]}
    else:
        row |= dict(zip(entry.responses, ("good", "bad"), strict=True))
        row |= dict.fromkeys(entry.votes, next(iter(entry.values), ""))
        row |= dict(zip(entry.scores, (0.5, -0.5), strict=False))
    found = scores(row, layout)
    assert found["good"] > found["bad"]
    if isinstance(entry, Compared) and entry.votes:
        found = scores(row | {name: entry.values[1].upper() for name in entry.votes}, layout)
        assert found["good"] < found["bad"]


@pytest.mark.parametrize(
    ("votes", "expected"), [((1, 1, 2), (1, 0)), ((2, 2, 1), (0, 1)), ((1, 2, 0), (0, 0)), ((0, 0, 1), (0, 0))]
)
def test_the_most_frequent_vote_decides(votes: tuple[int, ...], expected: tuple[int, int]) -> None:
    """By hand: 0 is a vote for neither, and three different votes are a tie."""
    row = {"instruction": "q", "response1": "a", "response2": "b"}
    row |= {f"annotator{n}": vote for n, vote in enumerate(votes, 1)}
    assert scores(row, Format.pandalm) == {"a": expected[0], "b": expected[1]}


def test_a_response_without_a_rating_is_left_out() -> None:
    row = {"instruction": "q", "generations": ["a", "b", "c"], "ratings": [5, None, 1]}
    assert scores(row, Format.distilabel) == {"a": 5, "c": 1}


@pytest.mark.parametrize(
    ("row", "layout", "message"),
    [
        ({"question": "q", "response_A": "a", "response_B": "b", "label": "C>D"}, Format.judgebench,
         "must be one of a>b, b>a"),
        ({"input": "q", "output_1": "a", "output_2": "b", "label": True}, Format.llmbar, "must be one of 1, 2"),
        ({"instruction": "q", "generations": ["a", "b"], "ratings": [1]}, Format.distilabel,
         "must be a list of one number for each of the 2 generations"),
    ],
)  # fmt: skip
def test_a_judgment_that_cannot_be_read_is_refused(row: dict, layout: Format, message: str) -> None:
    with pytest.raises(RowError, match=message):
        read(row, layout)


def test_every_right_response_is_above_every_wrong_one() -> None:
    [ranked] = read_lists({"prompt": "q", "chosen": ["a"], "rejected": ["b", "c"]})
    assert [(response[0]["content"], score) for response, score in ranked.responses] == [("a", 1), ("b", 0), ("c", 0)]
    assert not ranked.ties
