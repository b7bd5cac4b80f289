import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from rlhf.evaluation.reward_card import style
from rlhf.evaluation.reward_card.pairs import ScoredPairs, Side
from rlhf.evaluation.reward_card.style import Compared, StyleControl


def test_markdown_is_counted_outside_of_code() -> None:
    text = "# A\n\n- one\n* two\n1. three\n**b** and __c__\n```\n# no\n- no\n```\n### B\n"
    assert style.counts(text) == [len(text), 2, 2, 3]
    assert style.counts("a #b - c 2 ** 3") == [15, 0, 0, 0]


def made(score: str, size: int = 400) -> ScoredPairs:
    """Return pairs whose right response is the better one and often the longer one, with scores by either property."""
    generator = np.random.default_rng(7)
    rows, scores = [], []
    for number in range(size):
        lengths = generator.choice(np.arange(20, 200), size=2, replace=False)
        lengths = np.sort(lengths)[::-1] if number % 10 else np.sort(lengths)  # 90 % of the right ones are longer
        texts = ["x" * length for length in lengths]
        quality = np.array([1.0, 0.0]) if number % 5 != number // 10 % 5 else np.array([0.0, 1.0])  # 80 %
        by = {"quality": quality, "length": lengths / lengths.sum(), "both": quality + 5 * lengths / lengths.sum()}
        rows.append({"prompt": f"q{number}", "chosen": texts[0], "rejected": texts[1]})
        scores.append(by[score])
    sides = (Side(["q"] * size, [row[name] for row in rows]) for name in ("chosen", "rejected"))
    return ScoredPairs(rows, *sides, *np.array(scores).T)


def control(score: str) -> StyleControl:
    return style.control(style.compared_pairs(made(score)), 100, 0)


def test_a_score_of_length_only_is_at_chance_at_equal_style() -> None:
    found = control("length")
    assert found.accuracy.mean == pytest.approx(0.9)
    assert found.controlled.mean == pytest.approx(0.5, abs=0.05)
    assert found.coefficients["length"].low > 0.5


def test_a_score_that_ignores_length_keeps_its_accuracy() -> None:
    found = control("quality")
    assert found.accuracy.mean == pytest.approx(0.8)
    assert found.controlled.mean == pytest.approx(0.8, abs=0.03)
    assert found.controlled.low < 0.8 < found.controlled.high
    assert found.coefficients["score"].low > 0.5
    assert found.coefficients["lists"].mean == 0


def test_the_part_of_a_score_that_is_style_is_removed() -> None:
    both, quality = (control(score) for score in ("both", "quality"))
    assert both.accuracy.mean > 0.84
    assert both.controlled.mean == pytest.approx(quality.controlled.mean)
    assert both.coefficients["score"].mean == pytest.approx(quality.coefficients["score"].mean)


def test_the_regression_is_that_of_scikit_learn_on_both_orders() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 5)) + np.array([1, 0.5, 0, 0, 0])
    reference = LogisticRegression(C=1 / style.PENALTY, fit_intercept=False, tol=1e-10, max_iter=10000)
    both, labels = np.concatenate([x, -x]), np.repeat([1, 0], len(x))
    reference.fit(both, labels, sample_weight=np.full(len(both), 0.5))
    weights = np.array([np.ones(len(x)), np.arange(len(x)) % 3])
    found = style.fitted(np.tile(x[:, 0], (2, 1)), x[:, 1:], weights, np.zeros(5))
    assert found[0] == pytest.approx(reference.coef_[0], abs=1e-4)
    reference.fit(both, labels, sample_weight=np.tile(weights[1], 2) / 2)
    assert found[1] == pytest.approx(reference.coef_[0], abs=1e-4)


def test_the_part_that_is_linear_in_style_is_that_of_weighted_least_squares() -> None:
    """With a constant, which is kept; each of the weights has a separate regression."""
    generator = np.random.default_rng(1)
    x = generator.normal((2, 1, 0), size=(50, 3))
    weights = generator.integers(0, 4, size=(2, 50)).astype(float)
    for own, found in zip(weights, style.apart(x, weights), strict=True):
        root = np.sqrt(own)[:, None]
        slopes = np.linalg.lstsq(root * np.column_stack([x[:, 1:], np.ones(50)]), root[:, 0] * x[:, 0])[0]
        left = x[:, 0] - x[:, 1:] @ slopes[:2]
        assert found == pytest.approx(left / np.sqrt((left**2).mean()))


def test_a_row_with_many_pairs_weighs_as_much_as_one_with_a_single_pair() -> None:
    x = style.compared(np.array([-1.0] * 9 + [1.0]), [[1, 0, 0, 0]] * 10, [[1, 0, 0, 0]] * 10)
    rows = np.array([0] * 9 + [1])
    found = style.control(Compared(x, rows, 1 / np.bincount(rows)[rows]), 10, 0)
    assert found.accuracy.mean == 0.5


def test_differences_of_style_by_hand() -> None:
    """12 and 4 characters: 8/16; 3 headers and 1: 2/4; no bold text: 0; 0 and 2 list items: -1."""
    found = style.compared(np.array([0.5]), [[12, 3, 0, 0]], [[4, 1, 0, 2]])
    assert found.tolist() == [[0.5, 0.5, 0.5, 0, -1]]


def test_without_style_and_with_equal_differences_the_accuracy_is_that_of_one_coefficient() -> None:
    """54 of 60 pairs are right and all differ by ±1: w solves Σ ±σ(∓w) = w with 60 rows, so σ(w) is near 0.9."""
    pairs = ScoredPairs(
        [{"prompt": str(n), "chosen": "a", "rejected": "b"} for n in range(60)],
        *(Side(["q"] * 60, ["a"] * 60) for _ in range(2)),
        np.array([1.0] * 54 + [0.0] * 6), np.array([0.0] * 54 + [1.0] * 6),
    )  # fmt: skip
    found = style.control(style.compared_pairs(pairs), 20, 0)
    w = found.coefficients["score"].mean
    assert 54 * (1 - found.controlled.mean) - 6 * found.controlled.mean == pytest.approx(w, abs=1e-6)
    assert found.controlled.mean == pytest.approx(1 / (1 + np.exp(-w)))
    assert found.accuracy.mean == 0.9
    assert found.rows == 60


def test_each_part_has_its_own_regression_and_a_small_one_says_so() -> None:
    """Pairs from one source score quality, those from another one length; the third has 49 prompts."""
    quality, length = made("quality", 200), made("length", 200)
    rows = [row | {"prompt": f"a {row['prompt']}", "source": "quality"} for row in quality.rows]
    rows += [row | {"prompt": f"b {row['prompt']}", "source": "length"} for row in length.rows]
    rows += [row | {"prompt": f"c {row['prompt']}", "source": "few"} for row in quality.rows[:49]]

    def joined(name: str) -> tuple[Side, np.ndarray]:
        three = (quality, length, quality)
        ends = (200, 200, 49)
        texts = [text for one, end in zip(three, ends, strict=True) for text in getattr(one, name).completions[:end]]
        scores = [getattr(one, f"{name}_scores")[:end] for one, end in zip(three, ends, strict=True)]
        return Side(["q"] * len(texts), texts), np.concatenate(scores)

    (chosen, right), (rejected, wrong) = joined("chosen"), joined("rejected")
    found = style.by_part(ScoredPairs(rows, chosen, rejected, right, wrong), 50, 0)
    assert list(found) == ["source"]
    one = found["source"]
    assert one["quality"] == style.control(style.compared_pairs(quality), 50, 0)
    assert one["length"].controlled.mean == pytest.approx(0.5, abs=0.06)
    assert one["few"].controlled is None
    assert one["few"].coefficients == {}
    assert one["few"].shown(None) == "too few: 49 of 50"
    assert one["few"].record()["accuracy at equal style"] is None
    assert one["few"].accuracy.mean == pytest.approx(quality.right[:49].mean())
