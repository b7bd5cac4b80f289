import pytest

from rlhf.rewards import FormatReward, LengthReward


def ask(term: LengthReward | FormatReward, *texts: str) -> list[float]:
    return term(["p"] * len(texts), list(texts))


def test_each_word_outside_the_bounds_costs_one() -> None:
    texts = ("", "one", "one two", "one two three", " one  two\nthree four ")
    assert ask(LengthReward(min=2, max=3), *texts) == [-2, -1, 0, 0, -1]
    assert ask(LengthReward(max=1), *texts) == [0, 0, -1, -2, -3]
    assert ask(LengthReward(min=3), *texts) == [-3, -2, -1, 0, 0]


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (FormatReward(ends_with=[".", "!"]), [1, 1, 0, 1, 0]),
        (FormatReward(max_words=2), [1, 0, 1, 1, 1]),
        (FormatReward(pattern=r"^[A-Z].*\.$"), [1, 0, 0, 1, 0]),
        (FormatReward(pattern="[A-Z]", ends_with=["."], max_words=2), [1, 0, 0, 1, 0]),
    ],
    ids=["ends", "words", "pattern", "all"],
)
def test_the_form_holds_or_not(term: FormatReward, expected: list[float]) -> None:
    assert ask(term, "Lima.", "it is Lima! ", "Lima", "Lima\nPeru.", "") == expected
