from array import array

from datasets import Dataset

from rlhf.data.sheet import _summary, drawn, languages, measured, near_duplicates
from tests.data.test_tokens import TOKENIZER, said


def test_lengths_by_hand() -> None:
    assert _summary(array("L", [0, 1, 1, 3, 8])) == {
        "median": 1,
        "p95": 3,
        "max": 8,
        "mean": 2.6,
        "histogram": {"1": 1, "2": 2, "4": 1, "8": 0, "16": 1},
    }


def test_words_and_tokens() -> None:
    """<|user|> a b c d <|assistant|> | e f <|end|>"""
    rows = Dataset.from_dict({"prompt": [said("user", "abcd")], "completion": [said("assistant", "ef")]})
    assert measured(rows, 9, None)["lengths"]["completion"]["max"] == 1
    found = measured(rows, 8, TOKENIZER)
    assert (found["lengths"]["prompt"]["max"], found["lengths"]["completion"]["max"]) == (6, 3)
    assert (found["longer_rows"], found["filled"], found["special"], found["broken"]) == (1, 0, 0, 0)
    assert measured(rows, 9, TOKENIZER)["longer_rows"] == 0
    assert measured(rows, 6, TOKENIZER)["filled"] == 1


def test_near_duplicates_are_nearly_equal_and_not_exact() -> None:
    text = " ".join(f"word{n}" for n in range(60))
    other = " ".join(f"other{n}" for n in range(60))
    rows = Dataset.from_dict({"text": [text, text, f"{text} more", other, other.upper()]})
    assert near_duplicates(rows, 0.8) == {"rows": 5, "count": 2, "similarity": 0.8}
    assert near_duplicates(rows.select([]), 0.8) is None


def test_languages() -> None:
    texts = [
        "Wo liegt der Bahnhof, bitte, und wann fährt der Zug?",
        "Where is the station, please, and when does it leave?",
    ]
    found = languages(Dataset.from_dict({"prompt": [said("user", text) for text in [*texts, texts[1]]]}))
    assert found == {"rows": 3, "counts": {"en": 2, "de": 1}}


def test_rows_are_drawn_by_the_seed_in_their_order() -> None:
    rows = Dataset.from_dict({"text": [str(n) for n in range(50)]})
    numbers = [int(text) for text in drawn(rows, 5, 1)["text"]]
    assert numbers == sorted(numbers) == [int(text) for text in drawn(rows, 5, 1)["text"]]
    assert len(drawn(rows, 50, 1)) == 50
