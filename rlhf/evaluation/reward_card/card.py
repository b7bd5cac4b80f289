"""The report card of a reward model: what it has learned, what it merely counts, whether it knows when it is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from rlhf.evaluation.reward_card import baselines
from rlhf.evaluation.reward_card.pairs import Part, ScoredPairs, Side, decided, length_correlation, parts
from rlhf.evaluation.reward_card.probes import Probe, probe
from rlhf.evaluation.statistics.calibration import Bin, fit_temperature, log_loss, of_pairs
from rlhf.evaluation.statistics.intervals import Share, lead, share
from rlhf.evaluation.statistics.metrics import Estimate
from rlhf.rewards import RewardModel

PADDED = 32  # responses that are scored in one batch and one by one


class Baseline(NamedTuple):
    """A rule's accuracy on the same pairs, and by how much the reward model leads it."""

    accuracy: Share
    lead: Estimate


class Calibration(NamedTuple):
    """Before and after the score differences ``judged`` are divided by ``temperature``, fitted on other pairs.

    ``error`` is the ECE, ``floor`` the one that a calibrated model would show on these pairs.
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
    """How much is measured; see conf/stage/evaluate_reward.yaml."""

    probe_rows: int
    calibration_bins: int
    bootstrap: int
    seed: int


@dataclass
class Card:
    """``notes`` say what a reader must know, ``warnings`` what they must not overlook."""

    reward: str
    pairs: ScoredPairs
    limits: Limits
    accuracy: Share
    parts: dict[str, list[Part]]
    calibration: Calibration
    baselines: dict[str, Baseline]
    lengths: dict[str, float | None]
    probes: dict[str, Probe]
    padding: float
    statistics: dict[str, float] = field(default_factory=dict)
    members: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """One sentence for each baseline that is not beaten beyond the interval of the difference."""
        return [
            f"the reward model does not beat {name}: {self.accuracy.mean:.3f} against {found.accuracy.mean:.3f}, a "
            f"lead of {found.lead.mean:+.3f} [{found.lead.low:+.3f}, {found.lead.high:+.3f}] on "
            f"{self.accuracy.count} pairs"
            for name, found in self.baselines.items()
            if found.lead.low <= 0
        ]


def measure(
    name: str,
    reward: RewardModel,
    test: ScoredPairs,
    validation: ScoredPairs,
    differences: dict[str, np.ndarray],
    limits: Limits,
) -> Card:
    """The card of ``reward``, whose scores ``test`` and ``validation`` hold; ``differences`` are the baselines'."""
    right, prompts = test.right, test.prompts
    notes = []
    if ties := int((test.differences == 0).sum()):
        notes.append(f"{ties} of {len(right)} pairs have two equal scores, and count half")
    fit, judge, fitted_on = apart(test, validation)
    return Card(
        reward=name,
        pairs=test,
        limits=limits,
        accuracy=share(right, prompts),
        parts=parts(test),
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
    """Score differences to fit a temperature on, those to judge it on, and where the first come from.

    Data without a test split of their own use validation for both; then the prompts are halved.
    """
    if not set(test.prompts) & set(validation.prompts):
        return validation.differences, test.differences, f"{len(validation.rows)} validation pairs"
    distinct = sorted(set(test.prompts))
    first = set(distinct[::2])
    inside = np.array([prompt in first for prompt in test.prompts])
    return test.differences[inside], test.differences[~inside], "half of the prompts, tested on the others"


def calibrate(fit: np.ndarray, judge: np.ndarray, fitted_on: str, bins: int, seed: int) -> Calibration:
    if not len(judge):  # one prompt cannot be halved
        judge = fit
    found = of_pairs(judge, bins, seed)
    temperature = fit_temperature(fit)
    after = None if temperature is None else judge / temperature
    return Calibration(
        judge,
        *found,
        log_loss(judge),
        temperature,
        None if after is None else of_pairs(after, bins, seed).error,
        None if after is None else log_loss(after),
        fitted_on,
    )


def padding(side: Side, reward: RewardModel) -> float:
    """Largest difference between scores in one padded batch and those of the same responses one by one."""
    rows = [reward.encode(*row) for row in zip(side.prompts[:PADDED], side.completions[:PADDED], strict=True)]
    together = reward.score(rows)
    alone = [reward.score([row])[0] for row in rows]
    return float(np.abs(np.subtract(together, alone)).max())


def rules(
    train: tuple[Side, Side] | None, validation: tuple[Side, Side], test: tuple[Side, Side]
) -> dict[str, np.ndarray]:
    """The differences that the rules without a model give the test pairs; TF-IDF is learned from ``train``."""
    learned = {} if train is None else {"TF-IDF": baselines.Tfidf(train, validation)(*test)}
    return {"longer wins": baselines.longer(*test)} | learned


def policy_rules(
    model: Any, tokenizer: Any, test: tuple[Side, Side], max_length: int | None, batch_size: int
) -> dict[str, np.ndarray]:
    """Those that the policy's own log-probabilities give."""
    chosen, rejected = (baselines.log_probabilities(model, tokenizer, one, max_length, batch_size) for one in test)
    return {
        "log-probability": chosen.total - rejected.total,
        "mean log-probability per token": chosen.per_token - rejected.per_token,
    }


def disagreement(members: Sequence[ScoredPairs]) -> dict[str, Any]:
    """How far the members of an ensemble agree about the same pairs.

    ``deviation`` is the mean over responses of the members' standard deviation (of the population, ÷ k) after each
    member's scores are shifted to mean 0, since a Bradley-Terry score is known up to a constant alone; ``spread`` that
    of the mean scores over responses, to hold it against. ``split`` is the share of pairs whose order they do not agree
    on.
    """
    scores = np.array([np.concatenate([one.chosen_scores, one.rejected_scores]) for one in members])
    level = scores - scores.mean(axis=1, keepdims=True)
    signs = np.array([np.sign(one.differences) for one in members])
    split = (signs != signs[0]).any(axis=0)
    whole = np.mean([one.differences for one in members], axis=0)
    prompts = members[0].prompts
    found = {
        "accuracy": [share(one.right, prompts) for one in members],
        "deviation": float(level.std(axis=0).mean()),
        "spread": float(level.mean(axis=0).std()),
        "split": float(split.mean()),
    }
    for name, where in {"agreed": ~split, "split": split}.items():
        indices = np.flatnonzero(where)
        found[f"accuracy_{name}"] = (
            share(decided(whole[indices]), [prompts[i] for i in indices]) if len(indices) else None
        )
    return found
