"""Optional fields of rows, as a converter keeps them."""

import pytest

from rlhf.config import Format
from rlhf.data.rows import RowError
from tests.data.test_formats import PAIR, convert


@pytest.mark.parametrize(
    ("fields", "margin"),
    [
        ({"margin": 2, "score_chosen": 9.0, "score_rejected": 1.0}, 2.0),
        ({"score_chosen": 9.0, "score_rejected": 1.5}, 7.5),
        ({"chosen_score": 3, "rejected_score": 1}, 2.0),
        ({"strength": 0.5}, 0.5),
        ({"chosen-rating": 5, "rejected-rating": 3}, 2.0),
    ],
)
def test_margins(fields: dict, margin: float) -> None:
    assert convert(PAIR | fields, Format.standard, "preferences")["margin"] == margin
    assert "margin" not in convert(PAIR | fields, Format.standard, "prompts")


def test_labels_are_kept_unless_they_are_nested() -> None:
    row = {"prompt": "Q", "task": "question", "fact": "f1", "format": "list", "held_out": "none", "group": 3, "x": 1}
    row |= {"source": {"nested": True}}
    kept = convert(row, Format.standard, "prompts")
    assert set(kept) == {"prompt", "task", "fact", "format", "held_out", "group"}


def test_only_prompts_keep_checkable_instructions() -> None:
    asked = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    assert convert({"prompt": "Q"} | asked, Format.standard, "prompts") == {"prompt": "Q"} | asked
    assert convert(PAIR | asked, Format.standard, "preferences") == PAIR
    assert convert({"prompt": "Q"} | asked | {"kwargs": []}, Format.standard, "prompts") == {"prompt": "Q"}


def test_confidence_is_a_number_of_a_pair() -> None:
    assert convert(PAIR | {"confidence": 0.9}, Format.standard, "preferences")["confidence"] == 0.9
    assert "confidence" not in convert(PAIR | {"confidence": "high"}, Format.standard, "preferences")
    assert "confidence" not in convert(PAIR | {"confidence": 0.9}, Format.standard, "prompts")


@pytest.mark.parametrize("fields", [{"margin": "much"}, {"score_chosen": [1], "score_rejected": 0}])
def test_a_margin_that_is_not_a_number_is_refused(fields: dict) -> None:
    with pytest.raises(RowError, match=f"field '{next(iter(fields))}' must be a"):
        convert(PAIR | fields, Format.standard, "preferences")
