import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from rlhf.evaluation.benchmarks import style
from rlhf.evaluation.benchmarks.items import Item


def test_markdown_is_counted_outside_of_code() -> None:
    text = "# A\n\n- one\n* two\n1. three\n**b** and __c__\n```\n# no\n- no\n```\n### B\n"
    assert style.counts(text) == [len(text), 2, 2, 3]
    assert style.counts("a #b - c 2 ** 3") == [15, 0, 0, 0]


def made(score: str, size: int = 400) -> tuple[list[Item], list[np.ndarray]]:
    """Return pairs whose right response is the better one and often the longer one, with scores by either property."""
    generator = np.random.default_rng(7)
    items, scores = [], []
    for number in range(size):
        lengths = generator.choice(np.arange(20, 200), size=2, replace=False)
        lengths = np.sort(lengths)[::-1] if number % 10 else np.sort(lengths)  # 90 % of the right ones are longer
        texts = ["x" * length for length in lengths]
        quality = np.array([1.0, 0.0]) if number % 5 != number // 10 % 5 else np.array([0.0, 1.0])  # 80 %
        by = {"quality": quality, "length": lengths / lengths.sum(), "both": quality + 5 * lengths / lengths.sum()}
        items.append(Item(str(number), "s", "q", texts))
        scores.append(by[score])
    return items, scores


def test_a_score_of_length_only_is_at_chance_at_equal_style() -> None:
    found = style.control(*made("length"), 100, 0)
    assert found.accuracy.mean == pytest.approx(0.9)
    assert found.controlled.mean == pytest.approx(0.5, abs=0.05)
    assert found.coefficients["length"].low > 0.5


def test_a_score_that_ignores_length_keeps_its_accuracy() -> None:
    found = style.control(*made("quality"), 100, 0)
    assert found.accuracy.mean == pytest.approx(0.8)
    assert found.controlled.mean == pytest.approx(0.8, abs=0.03)
    assert found.controlled.low < 0.8 < found.controlled.high
    assert found.coefficients["score"].low > 0.5
    assert found.coefficients["lists"].mean == 0


def test_the_part_of_a_score_that_is_style_is_removed() -> None:
    both, quality = (style.control(*made(score), 100, 0) for score in ("both", "quality"))
    assert both.accuracy.mean > 0.84
    assert both.controlled.mean == pytest.approx(quality.controlled.mean)
    assert both.coefficients["score"].mean == pytest.approx(quality.coefficients["score"].mean)


def test_the_regression_is_that_of_scikit_learn_on_both_orders() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 5)) + np.array([1, 0.5, 0, 0, 0])
    reference = LogisticRegression(C=1 / style.PENALTY, fit_intercept=False, tol=1e-10, max_iter=10000)
    both, labels = np.concatenate([x, -x]), np.repeat([1, 0], len(x))
    reference.fit(both, labels, sample_weight=np.full(len(both), 0.5))
    assert style.fitted(x, np.ones(len(x)), np.zeros(5)) == pytest.approx(reference.coef_[0], abs=1e-4)


def test_a_row_with_many_pairs_weighs_as_much_as_one_with_a_single_pair() -> None:
    items = [Item("0", "s", "q", ["a"] * 6, right=3), Item("1", "s", "q", ["a", "a"])]
    found = style.control(items, [np.array([0.0, 0, 0, 1, 1, 1]), np.array([1.0, 0.0])], 10, 0)
    assert found.accuracy.mean == 0.5
