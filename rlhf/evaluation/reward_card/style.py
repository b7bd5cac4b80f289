"""The accuracy of a reward model apart from style: length, headers, bold text and lists.

A Bradley-Terry regression of the label on the score and on style, as in Chatbot Arena's style control (Li et al. 2024,
https://lmsys.org/blog/2024-08-28-style-control):

    P(right response is better) = σ(a r + bᵀ Δz),  Δz = (z_right - z_wrong) / (z_right + z_wrong), 0 for 0/0
    r = Δs - cᵀ Δz,  c from Δs = k + cᵀ Δz + e by least squares: the difference of the scores without its style

k is the difference that comes with the label. Style comes with the label, too, so that a regression without k would
remove a part of it. Each column is divided by its root mean square. Two responses of equal style have Δz = 0, so the
mean of σ(a |r|) over pairs is the accuracy at equal style.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf.evaluation.reward_card.pairs import ScoredPairs, decided, groups, named
from rlhf.evaluation.statistics.intervals import LEVEL
from rlhf.evaluation.statistics.metrics import Estimate

CODE = re.compile(r"```.*?(```|\Z)", re.DOTALL)
MARKDOWN = {
    "headers": re.compile(r"^#{1,6}\s", re.MULTILINE),
    "bold": re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
    "lists": re.compile(r"^\s*([-*+]|\d+\.)\s", re.MULTILINE),
}
STYLE = ("length", *MARKDOWN)
ROUNDING = 1e-6  # of a residual: the score is only style
EQUAL = "accuracy at equal style"
PENALTY = 1.0  # keeps the coefficients of separable pairs finite
ROOM = 2**20  # numbers in an array of the bootstrap
FEWEST = 10 * (1 + len(STYLE))  # rows: ten per coefficient, Peduzzi et al. 1996, doi.org/10.1016/S0895-4356(96)00236-3


class Compared(NamedTuple):
    """Pairs of a right and a wrong response: Δs and Δz as the columns of ``x`` (n, k).

    ``rows`` (n,) is the number of each pair's row, the sampling unit, ``weights`` (n,) the pair's weight.
    """

    x: np.ndarray
    rows: np.ndarray
    weights: np.ndarray

    def part(self, places: Sequence[int] | np.ndarray) -> "Compared":
        """Return the pairs at ``places``, with rows counted from 0."""
        rows = np.unique(self.rows[places], return_inverse=True)[1]
        return Compared(self.x[places], rows, self.weights[places])


class StyleControl(NamedTuple):
    """Accuracy over pairs and at equal style, and the coefficients, in log-odds per root mean square.

    With fewer than `FEWEST` ``rows`` there is only the accuracy.
    """

    rows: int
    accuracy: Estimate
    controlled: Estimate | None
    coefficients: dict[str, Estimate]

    def shown(self, value: Estimate | None) -> str:
        """Return one of the numbers with its interval, or the number of rows if they are too few for it."""
        if value is None:
            return f"too few: {self.rows} of {FEWEST}"
        return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"

    def estimates(self) -> dict[str, Estimate | None]:
        """Return all numbers by name."""
        named = {f"coefficient of {name}": value for name, value in self.coefficients.items()}
        return {"accuracy over pairs": self.accuracy, EQUAL: self.controlled} | named

    def record(self) -> dict[str, Any]:
        """Return the control as JSON."""
        found = {name: None if value is None else value._asdict() for name, value in self.estimates().items()}
        return {"rows": self.rows} | found


def counts(text: str) -> list[int]:
    """Return characters, headers, bold parts and list items of a response; those in code blocks do not count."""
    prose = CODE.sub("", text)
    return [len(text), *(len(pattern.findall(prose)) for pattern in MARKDOWN.values())]


def compared(differences: np.ndarray, right: Sequence[Any], wrong: Sequence[Any]) -> np.ndarray:
    """Return Δs and Δz of pairs (n, k) from the differences of their scores (n,) and their `counts` (n, k - 1)."""
    first, second = np.array(right, dtype=float), np.array(wrong, dtype=float)
    total = first + second
    style = np.divide(first - second, total, out=np.zeros_like(total), where=total > 0)
    return np.column_stack([differences, style])


def compared_pairs(pairs: ScoredPairs) -> Compared:
    """Return scored pairs of equal weight, whose prompts are the rows."""
    sides = ([counts(text) for text in side.completions] for side in (pairs.chosen, pairs.rejected))
    rows = np.unique(pairs.prompts, return_inverse=True)[1]
    return Compared(compared(pairs.differences, *sides), rows, np.ones(len(rows)))


def by_part(pairs: ScoredPairs, draws: int, seed: int) -> dict[str, dict[str, StyleControl]]:
    """Return property -> its value -> the style control of its pairs, for named properties with several values."""
    whole = compared_pairs(pairs)
    return {
        title: {name: control(whole.part(places), draws, seed) for name, places in groups(values).items()}
        for title, values in named(pairs).items()
        if len({*values}) > 1
    }


def control(pairs: Compared, draws: int, seed: int) -> StyleControl:
    """Return the style control over pairs, with a percentile bootstrap over their rows."""
    x, rows, share = pairs
    size, generator = int(rows.max()) + 1, np.random.default_rng(seed)
    won, x, enough = decided(x[:, 0]), x / scale(x), size >= FEWEST

    def numbers(repeats: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return the numbers (d, k + 2) of draws that have each row ``repeats`` (d, rows) times."""
        weights = share * repeats[:, rows]
        total = weights.sum(axis=1)
        accuracy = weights @ won / total
        if not enough:
            return accuracy[:, None]
        left = apart(x, weights)
        found = fitted(left, x[:, 1:], weights, start)
        equal = (weights / (1 + np.exp(-found[:, :1] * np.abs(left)))).sum(axis=1) / total
        return np.column_stack([accuracy, equal, found])

    [whole] = numbers(np.ones((1, size)), np.zeros(x.shape[1]))
    parts, most = [], max(ROOM // len(x), 1)
    for start in range(0, draws, most):
        picks = generator.integers(size, size=(min(most, draws - start), size))
        parts.append(numbers(np.array([np.bincount(pick, minlength=size) for pick in picks]), whole[2:]))
    bounds = np.quantile(np.concatenate(parts), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    accuracy, *more = map(Estimate, whole.tolist(), *bounds.tolist())
    controlled, coefficients = (more[0], dict(zip(("score", *STYLE), more[1:], strict=True))) if enough else (None, {})
    return StyleControl(size, accuracy, controlled, coefficients)


def scale(x: np.ndarray, least: float = 0.0) -> np.ndarray:
    """Return the root mean square of each column of ``x`` (n, k); 1 for a column whose own is at most ``least``."""
    found = np.sqrt((x**2).mean(axis=0))
    return np.where(found > least, found, 1)


def apart(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the first column of ``x`` (n, k) without the part that is linear in the others, scaled again, (d, n).

    It is regressed on the others and on a constant, which is kept, once for each of the ``weights`` (d, n).
    """
    style = x[:, 1:]
    causes = np.column_stack([style, np.ones(len(x))])
    moments = weighted_products(causes, weights) + 1e-9 * np.eye(causes.shape[1])
    slopes = np.linalg.solve(moments, (weights @ (causes * x[:, :1]))[..., None])[:, :-1, 0]
    left = x[:, 0] - slopes @ style.T
    return left / scale(left.T, ROUNDING)[:, None]


def weighted_products(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Σ w x xᵀ (d, k, k) over the rows of ``x`` (n, k) for each of the ``weights`` (d, n)."""
    size = x.shape[1]
    return (weights @ (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)).reshape(-1, size, size)


def fitted(left: np.ndarray, style: np.ndarray, weights: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the coefficients w (d, k) of logistic regressions whose labels are all 1, without intercept.

    Each regression has its first column ``left`` (d, n), the other ones ``style`` (n, k - 1), and the ``weights``
    (d, n) of its rows. Newton's method from ``start`` with the penalty ½ `PENALTY` wᵀw.
    """
    found, curvature = np.tile(start, (len(left), 1)), np.empty((len(left), len(start), len(start)))
    for _ in range(50):
        missed = 1 / (1 + np.exp(np.clip(found[:, :1] * left + found[:, 1:] @ style.T, -500, 500)))
        pull, bend = weights * missed, weights * missed * (1 - missed)
        gradient = np.column_stack([(pull * left).sum(axis=1), pull @ style]) - PENALTY * found
        curvature[:, 0, 0] = (bend * left**2).sum(axis=1)
        curvature[:, 0, 1:] = curvature[:, 1:, 0] = (bend * left) @ style
        curvature[:, 1:, 1:] = weighted_products(style, bend)
        step = np.linalg.solve(curvature + PENALTY * np.eye(len(start)), gradient[..., None])[..., 0]
        found = found + step
        if np.abs(step).max() < 1e-8:
            break
    return found
