import pytest

from rlhf.config import Format
from rlhf.data.detection import NO_FORMAT, detect

TALK = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    ("row", "layout", "reason"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, Format.standard, "it has prompt, chosen, rejected"),
        ({"instruction": "q", "output_1": "a", "output_2": "b"}, Format.alpaca_eval,
         "it has instruction, output_1 and output_2"),
        ({"prompt": "q", "responses": ["a", "b"], "scores": [1, 2]}, Format.scores,
         "it has prompt, responses and scores"),
        ({"chosen": ["a"], "rejected": ["b"]}, Format.reward_bench, "chosen and rejected are lists of texts"),
        ({"prompt": "q", "chosen": TALK, "rejected": TALK}, Format.ultrafeedback,
         "chosen and rejected are conversations that include the prompt"),
        ({"prompt": TALK[:1], "chosen": TALK[1:], "rejected": TALK[1:]}, Format.standard,
         "it has prompt, chosen, rejected"),
        ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}, Format.hh,
         "chosen and rejected are 'Human: / Assistant:' transcripts and there is no prompt"),
        ({"conversations": []}, Format.sharegpt, "it has conversations"),
        ({"prompt": {"text": "q", "replies": []}}, Format.oasst, "its prompt is a message with replies"),
        ({"prompt": "q", "completion": "a", "label": True}, Format.kto, "it has label for one answer"),
        ({"instruction": "q", "output": "a"}, Format.alpaca, "it has instruction and no prompt"),
        ({"id": 1}, Format.standard, NO_FORMAT),
    ],
)  # fmt: skip
def test_the_columns_decide(row: dict, layout: Format, reason: str) -> None:
    assert detect(row) == (layout, reason)


def test_a_null_is_no_column() -> None:
    """One file may have the columns of several layouts, with nulls in those that a row does not use."""
    row = {"prompt": "q", "completion": "a", "chosen": None, "rejected": None, "conversations": None}
    assert detect(row) == (Format.standard, "it has prompt, completion")


def test_a_pair_beside_the_ratings_that_made_it_is_read_as_the_pair() -> None:
    ratings = {"instruction": "q", "generations": ["a", "b"], "ratings": [5, 1]}
    assert detect(ratings)[0] is Format.distilabel
    assert detect(ratings | {"chosen": TALK, "rejected": TALK})[0] is Format.ultrafeedback
