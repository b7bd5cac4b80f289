"""Failures of a PPO run: each rule is a pure function of the metrics so far.

Rules compare medians over a window of updates with the limits of ``stage.sentinel`` (conf/stage/ppo.yaml), so that one
noisy batch raises no alarm. Each returns None or one sentence: the failure with its numbers, its usual cause, the
remedy.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

from rlhf.config import SentinelSettings

KL, SCORES, GOLD = "objective/kl", "objective/scores", "objective/gold"
STEP_KL, ENTROPY = "policy/approxkl_avg", "policy/entropy_avg"
VARIANCE, ENDED, LENGTH = "val/explained_variance", "val/ended", "val/response_length"
REPETITION, DISTINCT, EQUAL = "val/repetition", "val/distinct", "val/equal_groups"
FAR = "reward/far"
SHADOW = "shadow/"  # prefix of rewards that score every batch and train nothing
WATCHED = (KL, SCORES, GOLD, STEP_KL, ENTROPY, VARIANCE, ENDED, LENGTH, REPETITION, DISTINCT, EQUAL, FAR)


class History:
    """The values of the watched metrics at every update so far; medians are over ``window`` updates."""

    def __init__(self, window: int):
        self.window = window
        self.seen: dict[str, list[float]] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        """Append the metrics of one update."""
        shadows = [name for name in metrics if name.startswith(SHADOW) and f"{name}_std" in metrics]
        for name in (*WATCHED, *shadows):
            if name in metrics:
                self.seen.setdefault(name, []).append(metrics[name])

    def __len__(self) -> int:
        return max(map(len, self.seen.values()), default=0)

    def knows(self, name: str, updates: int = 0) -> bool:
        """Return whether the metric has values for a whole window, and for at least ``updates`` updates."""
        return len(self.seen.get(name, ())) >= max(self.window, updates)

    def now(self, name: str) -> float:
        """Return the median of the last window."""
        return statistics.median(self.seen[name][-self.window :])

    def start(self, name: str) -> float:
        """Return the median of the first window."""
        return statistics.median(self.seen[name][: self.window])

    def medians(self, name: str) -> list[float]:
        """Return the median of the window that ends at each update, starting with the first full window."""
        values = self.seen[name]
        return [statistics.median(values[end - self.window : end]) for end in range(self.window, len(values) + 1)]

    def latest(self) -> dict[str, float]:
        """Return the median of the last window of every metric that has one."""
        return {name: self.now(name) for name in self.seen if self.knows(name)}


def critic_not_learning(history: History, limits: SentinelSettings) -> str | None:
    """Check the explained variance 1 - Var(G - V) / Var(G): at 0 the critic is no better than a constant."""
    if limits.explained_variance is None or not history.knows(VARIANCE, limits.grace + limits.window):
        return None
    found = history.now(VARIANCE)
    if found >= limits.explained_variance:
        return None
    return (
        f"the critic is not learning: the explained variance of the returns is {found:.2g}, below "
        f"{limits.explained_variance:g}; commonly its learning rate is wrong or it did not start from the reward "
        "model: change stage.critic_learning_rate or set stage.critic_warmup_updates"
    )


def steps_too_large(history: History, limits: SentinelSettings) -> str | None:
    """Check the mean of ½ (log π - log π_old)² over the tokens of an update, in nats."""
    if limits.approx_kl_max is None or not history.knows(STEP_KL) or history.now(STEP_KL) <= limits.approx_kl_max:
        return None
    return (
        f"the steps are too large: within an update the policy moves {history.now(STEP_KL):.2g} nats per token, more "
        f"than {limits.approx_kl_max:g}, so most of the loss is clipped and has no gradient; commonly the learning "
        "rate is too high: lower stage.learning_rate or stage.epochs"
    )


def kl_running_away(history: History, limits: SentinelSettings) -> str | None:
    """Check the upper limit of the KL, Σₜ log π - log π_ref per response, in nats."""
    if limits.kl_max is None or not history.knows(KL) or history.now(KL) <= limits.kl_max:
        return None
    return (
        f"the policy is running away from its reference: the KL is {history.now(KL):.3g} nats per response, above "
        f"{limits.kl_max:g}, at which the score says little about quality; commonly the KL penalty is too weak for "
        "the learning rate: raise stage.kl_coef or lower stage.learning_rate"
    )


def kl_negative(history: History, limits: SentinelSettings) -> str | None:
    """Check the lower limit of the KL, which is not negative in expectation if the policy drew the responses."""
    if limits.kl_min is None or not history.knows(KL) or history.now(KL) >= limits.kl_min:
        return None
    return (
        f"the KL is negative: {history.now(KL):.3g} nats per response, below {limits.kl_min:g}, which is impossible "
        "if the policy wrote the responses; commonly they come from other weights or were filtered (top-k, a minimum "
        "length, another temperature): sample from the policy itself, only at stage.temperature"
    )


def no_eos(history: History, limits: SentinelSettings) -> str | None:
    """Check the EOS rate after the grace period."""
    if limits.eos_rate_min is None or not history.knows(ENDED, limits.grace + limits.window):
        return None
    if history.now(ENDED) >= limits.eos_rate_min:
        return None
    return (
        f"the responses do not end: the EOS rate is {history.now(ENDED):.0%}, below {limits.eos_rate_min:.0%}; "
        "commonly padding and EOS are the same token in the SFT data, or the length limit is too low: raise "
        "stage.max_response_length, keep stage.missing_eos=replace, or train SFT on responses that end"
    )


def length_hack(history: History, limits: SentinelSettings) -> str | None:
    """Check for length hacking: length and score grow, and correlate over the updates (Pearson)."""
    if limits.length_growth is None or not history.knows(LENGTH, 2 * limits.window):
        return None
    then, now = history.start(LENGTH), history.now(LENGTH)
    if now < limits.length_growth * then or history.now(SCORES) <= history.start(SCORES):
        return None
    together = correlation(history.seen[LENGTH], history.seen[SCORES])
    if together < limits.length_correlation:
        return None
    return (
        f"the score rises by length: responses grew from {then:.3g} to {now:.3g} tokens, and length and score "
        f"correlate ({together:.2f}); commonly the reward prefers long responses: train it on pairs of similar length, "
        "add a length term to the reward, or lower stage.max_response_length"
    )


def repeating(history: History, limits: SentinelSettings) -> str | None:
    """Check the share of repeated 4-grams in the responses."""
    if limits.repetition is None or not history.knows(REPETITION) or history.now(REPETITION) <= limits.repetition:
        return None
    return (
        f"the responses are repetitive: {history.now(REPETITION):.0%} of their 4-grams are repeated, more than "
        f"{limits.repetition:.0%}; commonly the reward does not penalize loops: raise stage.kl_coef, or add a term "
        "against repetition to the reward"
    )


def entropy_collapse(history: History, limits: SentinelSettings) -> str | None:
    """Check the entropy relative to its start."""
    if limits.entropy_share is None or not history.knows(ENTROPY, 2 * limits.window):
        return None
    then, now = history.start(ENTROPY), history.now(ENTROPY)
    if now >= limits.entropy_share * then:
        return None
    return (
        f"the entropy has collapsed: from {then:.2g} to {now:.2g} nats per token, below {limits.entropy_share:.0%} of "
        "its start, so the policy no longer explores; commonly the steps are too large or the KL penalty is too weak: "
        "lower stage.learning_rate, or raise stage.kl_coef"
    )


def over_optimized(history: History, limits: SentinelSettings) -> str | None:
    """Check whether the gold score has fallen since its best window while the score has risen.

    The fall is measured in units of ``noise`` of the gold score. Gao et al. 2022, https://arxiv.org/abs/2210.10760.
    """
    if limits.gold_fall is None or not history.knows(GOLD, 2 * limits.window):
        return None
    golds, scores = history.medians(GOLD), history.medians(SCORES)[-len(history.medians(GOLD)) :]
    best = max(range(len(golds)), key=golds.__getitem__)
    fall = (golds[best] - golds[-1]) / max(noise(history.seen[GOLD]), 1e-8)
    if fall <= limits.gold_fall or scores[-1] <= scores[best]:
        return None
    return (
        f"the reward is being gamed: the score rose from {scores[best]:.3g} to {scores[-1]:.3g} while the held-out "
        f"gold score fell from {golds[best]:.3g} to {golds[-1]:.3g}, {fall:.1f} times its noise; commonly the reward "
        "model is wrong on the policy's responses: stop at the best gold score, raise stage.kl_coef, or fix the reward"
    )


class Fall(NamedTuple):
    """A reward that fell from ``best``, the median of the window that ends at ``peak``, while the score rose.

    ``update`` is the first one whose window is lower by more than ``gold_fall`` times the noise; None if none is.
    ``last`` is the median of the last window.
    """

    name: str
    best: float
    peak: int
    update: int | None
    last: float


def falls(history: History, limits: SentinelSettings) -> list[Fall]:
    """Return gold and each shadow reward, those that fell first at the beginning; see ``over_optimized``.

    The noise is that of the whole run. A reward that was not scored in every update, or in fewer than two windows, is
    left out.
    """
    found = []
    for name in history.seen:
        if name != GOLD and not name.startswith(SHADOW):
            continue
        if not history.knows(name, 2 * limits.window) or len(history.seen[name]) != len(history.seen[SCORES]):
            continue
        values, scores = history.medians(name), history.medians(SCORES)
        most = (limits.gold_fall or math.inf) * max(noise(history.seen[name]), 1e-8)
        best, first = 0, None
        for at, value in enumerate(values):
            if first is None and values[best] - value > most and scores[at] > scores[best]:
                first = at + limits.window
            best = at if value > values[best] else best
        found.append(Fall(name, values[best], best + limits.window, first, values[-1]))
    return sorted(found, key=lambda fall: math.inf if fall.update is None else fall.update)


def all_alike(history: History, limits: SentinelSettings) -> str | None:
    """Check for mode collapse: the share of distinct responses in a batch."""
    if limits.distinct is None or not history.knows(DISTINCT) or history.now(DISTINCT) >= limits.distinct:
        return None
    return (
        f"the responses are all alike: {history.now(DISTINCT):.0%} of a batch are distinct, fewer than "
        f"{limits.distinct:.0%}; commonly one response scores well for every prompt: raise stage.kl_coef, lower "
        "stage.learning_rate, or check the score of that response"
    )


def no_signal(history: History, limits: SentinelSettings) -> str | None:
    """Check the share of prompts whose responses all have the same score, which have no advantage."""
    if limits.equal_groups is None or not history.knows(EQUAL) or history.now(EQUAL) <= limits.equal_groups:
        return None
    return (
        f"the scores do not differ: {history.now(EQUAL):.0%} of the prompts have one score for all of their responses, "
        f"more than {limits.equal_groups:.0%}, and so no advantage; commonly the task is too hard or easy: use other "
        "prompts, raise stage.samples, or set stage.equal_groups=resample"
    )


def off_distribution(history: History, limits: SentinelSettings) -> str | None:
    """Check the share of responses that are far from the training data of the reward model."""
    if limits.far is None or not history.knows(FAR) or history.now(FAR) <= limits.far:
        return None
    return (
        f"the policy has left the data of the reward model: {history.now(FAR):.0%} of its responses, more than "
        f"{limits.far:.0%}, are farther from the training responses than 99 % of the held-out ones, so that their "
        "scores are extrapolations; commonly the KL penalty is too weak: raise stage.kl_coef, set stage.distance_coef, "
        "or train the reward model with stage.negatives"
    )


class Rule(Protocol):
    """A check of the metrics so far; its name is the diagnosis, its result the sentence, or None."""

    __name__: str

    def __call__(self, history: History, limits: SentinelSettings, /) -> str | None: ...


RULES: tuple[Rule, ...] = (
    critic_not_learning,
    steps_too_large,
    kl_running_away,
    kl_negative,
    no_eos,
    length_hack,
    repeating,
    entropy_collapse,
    over_optimized,
    all_alike,
    no_signal,
    off_distribution,
)


def correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Return Pearson's correlation; 0 if ``x`` or ``y`` is constant."""
    return statistics.correlation(x, y) if min(statistics.pvariance(x), statistics.pvariance(y)) > 0 else 0.0


def noise(values: Sequence[float]) -> float:
    """Return the standard deviation of a value around a slow trend, from the median absolute step.

    A step between two independent values has √2 times their deviation; the median of |x| of a normal x is 0.6745 σ.
    """
    steps = [abs(later - earlier) for earlier, later in pairwise(values)]
    return statistics.median(steps) / (0.6745 * 2**0.5)
