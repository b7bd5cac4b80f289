"""The report card of a reward model: accuracy, baselines, length bias, calibration and perturbation tests."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from rlhf.console import plural
from rlhf.evaluation.reward_card import baselines
from rlhf.evaluation.reward_card.autopsy import Autopsy
from rlhf.evaluation.reward_card.ensemble import AnyRewardModel
from rlhf.evaluation.reward_card.pairs import Part, ScoredPairs, Side, decided, length_correlation, parts
from rlhf.evaluation.reward_card.probes import Probe, probe
from rlhf.evaluation.reward_card.style import StyleControl, by_part, compared_pairs, control
from rlhf.evaluation.statistics.calibration import Bin, fit_temperature, log_loss, of_pairs
from rlhf.evaluation.statistics.intervals import Share, lead, share
from rlhf.evaluation.statistics.metrics import Estimate

PADDED = 32  # responses that are scored both in one batch and one by one


class Baseline(NamedTuple):
    """A baseline's accuracy on the same pairs, and the reward model's lead over it."""

    accuracy: Share
    lead: Estimate


class Calibration(NamedTuple):
    """Calibration on the score differences ``judged``, and after their division by ``temperature``.

    The temperature is fitted on other pairs. ``error`` is the ECE, ``floor`` that of a calibrated model on these pairs.
    """

    judged: np.ndarray
    bins: list[Bin]
    error: float
    floor: float
    log_loss: float
    temperature: float | None
    error_after: float | None
    log_loss_after: float | None
    fitted_on: str


class Limits(NamedTuple):
    """The sizes of the measurements; see conf/stage/evaluate_reward.yaml."""

    probe_rows: int
    calibration_bins: int
    bootstrap: int
    seed: int


@dataclass
class Card:
    """The measurements of a report card. ``notes`` explain them; ``warnings`` report baselines that are not beaten.

    ``style`` is the accuracy apart from style, ``styled`` that of the ``parts`` whose property is a name.
    """

    reward: str
    pairs: ScoredPairs
    limits: Limits
    accuracy: Share
    parts: dict[str, list[Part]]
    style: StyleControl
    styled: dict[str, dict[str, StyleControl]]
    calibration: Calibration
    baselines: dict[str, Baseline]
    lengths: dict[str, float | None]
    probes: dict[str, Probe]
    padding: float
    statistics: dict[str, float] = field(default_factory=dict)
    members: dict[str, Any] = field(default_factory=dict)
    autopsies: list[Autopsy] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """A sentence for each baseline whose lead is not significantly above 0."""
        return [
            f"the reward model does not beat {name}: {self.accuracy.mean:.3f} vs. {found.accuracy.mean:.3f}, a "
            f"lead of {found.lead.mean:+.3f} [{found.lead.low:+.3f}, {found.lead.high:+.3f}] on "
            f"{plural(self.accuracy.count, 'pair')}"
            for name, found in self.baselines.items()
            if found.lead.low <= 0
        ]


def measure(
    name: str,
    reward: AnyRewardModel,
    test: ScoredPairs,
    validation: ScoredPairs,
    differences: dict[str, np.ndarray],
    limits: Limits,
) -> Card:
    """Return the card of ``reward``, which scored ``test`` and ``validation``.

    ``differences``: baseline -> its differences on the test pairs.
    """
    right, prompts = test.right, test.prompts
    notes = []
    if ties := int((test.differences == 0).sum()):
        notes.append(f"{ties} of {len(right)} pairs have equal scores and count half")
    fit, judge, fitted_on = apart(test, validation)
    return Card(
        reward=name,
        pairs=test,
        limits=limits,
        accuracy=share(right, prompts),
        parts=parts(test),
        style=control(compared_pairs(test), limits.bootstrap, limits.seed),
        styled=by_part(test, limits.bootstrap, limits.seed),
        calibration=calibrate(fit, judge, fitted_on, limits.calibration_bins, limits.seed),
        baselines={
            rule: Baseline(
                share(decided(found), prompts),
                lead(right, decided(found), prompts, limits.bootstrap, limits.seed),
            )
            for rule, found in differences.items()
        },
        lengths=length_correlation(test),
        probes=probe(test, reward, limits.probe_rows, limits.seed),
        padding=padding(test.chosen, reward),
        notes=notes,
    )


def apart(test: ScoredPairs, validation: ScoredPairs) -> tuple[np.ndarray, np.ndarray, str]:
    """Return score differences to fit a temperature on, other ones to test it on, and a description of the first.

    If the test split shares prompts with the validation split, its prompts are halved.
    """
    if not set(test.prompts) & set(validation.prompts):
        return validation.differences, test.differences, f"{len(validation.rows)} validation pairs"
    distinct = sorted(set(test.prompts))
    first = set(distinct[::2])
    inside = np.array([prompt in first for prompt in test.prompts])
    return test.differences[inside], test.differences[~inside], "half of the prompts, tested on the others"


def calibrate(fit: np.ndarray, test: np.ndarray, fitted_on: str, bins: int, seed: int) -> Calibration:
    """Return the calibration on the score differences ``test``, with a temperature fitted on ``fit``."""
    if not len(test):  # one prompt cannot be halved
        test = fit
    found = of_pairs(test, bins, seed)
    temperature = fit_temperature(fit)
    after = None if temperature is None else test / temperature
    return Calibration(
        test,
        *found,
        log_loss(test),
        temperature,
        None if after is None else of_pairs(after, bins, seed).error,
        None if after is None else log_loss(after),
        fitted_on,
    )


def padding(side: Side, reward: AnyRewardModel) -> float:
    """Return the largest difference between the scores of a padded batch and those of single responses."""
    rows = [reward.encode(*row) for row in zip(side.prompts[:PADDED], side.completions[:PADDED], strict=True)]
    padded = reward.score(rows)
    unpadded = [reward.score([row])[0] for row in rows]
    return float(np.abs(np.subtract(padded, unpadded)).max())


def rules(
    train: tuple[Side, Side] | None, validation: tuple[Side, Side], test: tuple[Side, Side]
) -> dict[str, np.ndarray]:
    """Return the differences of the baselines without a model on the test pairs; TF-IDF is fitted on ``train``."""
    learned = {} if train is None else {"TF-IDF": baselines.Tfidf(train, validation)(*test)}
    return {"longer wins": baselines.longer(*test)} | learned


def policy_rules(
    model: Any, tokenizer: Any, test: tuple[Side, Side], max_length: int | None, batch_size: int
) -> dict[str, np.ndarray]:
    """Return the differences of the policy's log-probabilities on the test pairs."""
    chosen, rejected = (baselines.log_probabilities(model, tokenizer, side, max_length, batch_size) for side in test)
    return {
        "log-probability": chosen.total - rejected.total,
        "mean log-probability per token": chosen.per_token - rejected.per_token,
    }


def disagreement(members: Sequence[ScoredPairs]) -> dict[str, Any]:
    """Return how far the members of an ensemble agree on the same pairs.

    ``deviation``: the members' standard deviation (÷ k), averaged over responses. Each member's scores are shifted to
    mean 0 first, because a Bradley-Terry score is only defined up to a constant. ``spread``: the standard deviation of
    the mean scores over responses, for comparison. ``split``: the share of pairs on whose order the members disagree.
    ``accuracy_agreed``, ``accuracy_split``: the accuracy of the mean on the other pairs and on these.
    """
    scores = np.array([np.concatenate([member.chosen_scores, member.rejected_scores]) for member in members])
    level = scores - scores.mean(axis=1, keepdims=True)
    signs = np.array([np.sign(member.differences) for member in members])
    split = (signs != signs[0]).any(axis=0)
    whole = np.mean([member.differences for member in members], axis=0)
    prompts = members[0].prompts
    found: dict[str, Any] = {
        "accuracy": [share(member.right, prompts) for member in members],
        "deviation": float(level.std(axis=0).mean()),
        "spread": float(level.mean(axis=0).std()),
        "split": float(split.mean()),
    }
    for name, chosen in {"agreed": ~split, "split": split}.items():
        indices = np.flatnonzero(chosen)
        found[f"accuracy_{name}"] = (
            share(decided(whole[indices]), [prompts[i] for i in indices]) if len(indices) else None
        )
    return found
