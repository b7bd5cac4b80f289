import pytest

from rlhf.rewards import Format, Length


def ask(term: Length | Format, *texts: str) -> list[float]:
    return term(["p"] * len(texts), list(texts))


def test_each_word_outside_the_bounds_costs_one() -> None:
    texts = ("", "one", "one two", "one two three", " one  two\nthree four ")
    assert ask(Length(least=2, most=3), *texts) == [-2, -1, 0, 0, -1]
    assert ask(Length(most=1), *texts) == [0, 0, -1, -2, -3]
    assert ask(Length(least=3), *texts) == [-3, -2, -1, 0, 0]


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (Format(ends_with=[".", "!"]), [1, 1, 0, 1, 0]),
        (Format(most_words=2), [1, 0, 1, 1, 1]),
        (Format(pattern=r"^[A-Z].*\.$"), [1, 0, 0, 1, 0]),
        (Format(pattern="[A-Z]", ends_with=["."], most_words=2), [1, 0, 0, 1, 0]),
    ],
    ids=["ends", "words", "pattern", "all"],
)
def test_the_form_holds_or_not(term: Format, expected: list[float]) -> None:
    assert ask(term, "Lima.", "it is Lima! ", "Lima", "Lima\nPeru.", "") == expected
