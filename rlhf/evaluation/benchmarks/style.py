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
from typing import NamedTuple

import numpy as np

from rlhf.evaluation.benchmarks.definitions import Scores
from rlhf.evaluation.benchmarks.items import Item
from rlhf.evaluation.reward_card.pairs import decided
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
PENALTY = 1.0  # keeps the coefficients of separable pairs finite


class StyleControl(NamedTuple):
    """Accuracy over pairs and at equal style, and the coefficients, in log-odds per root mean square."""

    accuracy: Estimate
    controlled: Estimate
    coefficients: dict[str, Estimate]


def counts(text: str) -> list[int]:
    """Return characters, headers, bold parts and list items of a response; those in code blocks do not count."""
    prose = CODE.sub("", text)
    return [len(text), *(len(pattern.findall(prose)) for pattern in MARKDOWN.values())]


def wins(items: Sequence[Item], scores: Scores) -> np.ndarray:
    """Return each item's share (n,) of pairs whose right response scores higher; a tie counts half."""
    sides = ((own, *item.pairs()) for item, own in zip(items, scores, strict=True))
    return np.array([decided(own[right] - own[wrong]).mean() for own, right, wrong in sides])


def control(items: Sequence[Item], scores: Scores, draws: int, seed: int) -> StyleControl:
    """Return the style control over all pairs of a right and a wrong response, with a bootstrap over rows.

    A row weighs as much as any other, however many pairs it has.
    """
    pairs, of = [], []
    for number, (item, own) in enumerate(zip(items, scores, strict=True)):
        styles = np.array([counts(text) for text in item.responses], dtype=float)
        right, wrong = item.pairs()
        total = styles[right] + styles[wrong]
        style = np.divide(styles[right] - styles[wrong], total, out=np.zeros_like(total), where=total > 0)
        pairs.append(np.column_stack([own[right] - own[wrong], style]))
        of += [number] * len(right)
    x, rows = np.concatenate(pairs), np.array(of)
    won = decided(x[:, 0])
    x = x / scale(x)
    share = 1 / np.bincount(rows)[rows]

    def numbers(repeats: np.ndarray, start: np.ndarray) -> np.ndarray:
        weights = share * repeats[rows]
        without = apart(x, weights)
        found = fitted(without, weights, start)
        equal = 1 / (1 + np.exp(-found[0] * np.abs(without[:, 0])))
        return np.array([np.average(won, weights=weights), np.average(equal, weights=weights), *found])

    size, generator = len(items), np.random.default_rng(seed)
    whole = numbers(np.ones(size), np.zeros(x.shape[1]))
    picks = (np.bincount(generator.integers(size, size=size), minlength=size) for _ in range(draws))
    drawn = [numbers(pick, whole[2:]) for pick in picks]
    bounds = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    accuracy, controlled, *found = map(Estimate, whole.tolist(), *bounds.tolist())
    return StyleControl(accuracy, controlled, dict(zip(("score", *STYLE), found, strict=True)))


def scale(x: np.ndarray, least: float = 0.0) -> np.ndarray:
    """Return the root mean square of each column of ``x`` (n, k); 1 for a column whose own is at most ``least``."""
    found = np.sqrt((x**2).mean(axis=0))
    return np.where(found > least, found, 1)


def apart(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return ``x`` (n, k) with the first column without the part that is linear in the others, and scaled again.

    The first column is regressed on the others and on a constant, which is kept.
    """
    style = x[:, 1:]
    causes = np.column_stack([style, np.ones(len(x))])
    moments = (causes.T * weights) @ causes + 1e-9 * np.eye(causes.shape[1])
    slopes = np.linalg.solve(moments, causes.T @ (weights * x[:, 0]))[:-1]
    left = x[:, :1] - style @ slopes[:, None]
    return np.concatenate([left / scale(left, ROUNDING), style], axis=1)


def fitted(x: np.ndarray, weights: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the coefficients w (k,) of a logistic regression whose labels are all 1, without intercept.

    Newton's method from ``start`` on the ``weights`` (n,) of the rows of x (n, k) and the penalty ½ `PENALTY` wᵀw.
    """
    found = start
    for _ in range(50):
        missed = 1 / (1 + np.exp(np.clip(x @ found, -500, 500)))
        gradient = x.T @ (weights * missed) - PENALTY * found
        curvature = (x.T * (weights * missed * (1 - missed))) @ x + PENALTY * np.eye(len(found))
        step = np.linalg.solve(curvature, gradient)
        found = found + step
        if np.abs(step).max() < 1e-8:
            break
    return found
