"""What can go wrong in a PPO run, in words: each rule is a pure function of the metrics that have been seen so far.

Rules judge medians over a window of updates, so that one noisy batch raises no alarm. Each returns one sentence that
says what is wrong, with its numbers, what usually causes it and the remedy, or None. The limits are those of
``stage.sentinel``, explained in conf/stage/ppo.yaml.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from rlhf.config import SentinelSettings

KL, SCORES, GOLD = "objective/kl", "objective/scores", "objective/gold"
STEP_KL, ENTROPY = "policy/approxkl_avg", "policy/entropy_avg"
VARIANCE, ENDED, LENGTH = "val/explained_variance", "val/ended", "val/response_length"
REPETITION, DISTINCT = "val/repetition", "val/distinct"
WATCHED = (KL, SCORES, GOLD, STEP_KL, ENTROPY, VARIANCE, ENDED, LENGTH, REPETITION, DISTINCT)


class History:
    """Metric -> its value at every update so far; medians are over ``window`` updates."""

    def __init__(self, window: int):
        self.window = window
        self.seen: dict[str, list[float]] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        for name in WATCHED:
            if name in metrics:
                self.seen.setdefault(name, []).append(metrics[name])

    def __len__(self) -> int:
        return max(map(len, self.seen.values()), default=0)

    def knows(self, name: str, updates: int = 0) -> bool:
        """Whether the metric was seen in at least a window, and in as many updates."""
        return len(self.seen.get(name, ())) >= max(self.window, updates)

    def now(self, name: str) -> float:
        return statistics.median(self.seen[name][-self.window :])

    def start(self, name: str) -> float:
        return statistics.median(self.seen[name][: self.window])

    def medians(self, name: str) -> list[float]:
        """The median of the window that ends at each update, from the first full window on."""
        values = self.seen[name]
        return [statistics.median(values[end - self.window : end]) for end in range(self.window, len(values) + 1)]

    def latest(self) -> dict[str, float]:
        return {name: self.now(name) for name in self.seen if self.knows(name)}


def critic_not_learning(history: History, limits: SentinelSettings) -> str | None:
    """Explained variance 1 - Var(G - V) / Var(G): at 0 the critic is no better than a constant."""
    if limits.explained_variance is None or not history.knows(VARIANCE, limits.grace + limits.window):
        return None
    found = history.now(VARIANCE)
    if found >= limits.explained_variance:
        return None
    return (
        f"the critic is not learning: it explains {found:.2g} of the variance of the returns, and less than "
        f"{limits.explained_variance:g} is worse than a constant; commonly its learning rate is wrong or it did not "
        "start from the reward model: change stage.critic_learning_rate, or give it stage.critic_warmup_updates"
    )


def steps_too_large(history: History, limits: SentinelSettings) -> str | None:
    """½ (log π - log π_old)², the mean over the tokens of an update."""
    if limits.approx_kl_max is None or not history.knows(STEP_KL) or history.now(STEP_KL) <= limits.approx_kl_max:
        return None
    return (
        f"the steps are too large: within an update the policy moves {history.now(STEP_KL):.2g} nats a token, more "
        f"than {limits.approx_kl_max:g}, so that most of the clipped loss teaches nothing; commonly the learning rate "
        "is too high: lower stage.learning_rate or stage.epochs"
    )


def kl_running_away(history: History, limits: SentinelSettings) -> str | None:
    """Σₜ log π - log π_ref of a response, in nats."""
    if limits.kl_max is None or not history.knows(KL) or history.now(KL) <= limits.kl_max:
        return None
    return (
        f"the policy is running away from its reference: the KL is {history.now(KL):.3g} nats a response, above "
        f"{limits.kl_max:g}, where a score says little of quality; commonly the pull towards the reference is too "
        "weak for the learning rate: raise stage.kl_coef or lower stage.learning_rate"
    )


def kl_negative(history: History, limits: SentinelSettings) -> str | None:
    """In expectation the KL is never negative, if the responses were drawn from the policy."""
    if limits.kl_min is None or not history.knows(KL) or history.now(KL) >= limits.kl_min:
        return None
    return (
        f"the KL is negative: {history.now(KL):.3g} nats a response, below {limits.kl_min:g}, which cannot be if "
        "the policy wrote the responses; commonly they come from other weights or through a filter (top-k, a minimal "
        "length, another temperature): sample from the policy itself, at stage.temperature alone"
    )


def no_eos(history: History, limits: SentinelSettings) -> str | None:
    if limits.eos_rate_min is None or not history.knows(ENDED, limits.grace + limits.window):
        return None
    if history.now(ENDED) >= limits.eos_rate_min:
        return None
    return (
        f"the responses do not end: {history.now(ENDED):.0%} of them write the end of sequence, fewer than "
        f"{limits.eos_rate_min:.0%}; commonly pad and end are one token in the SFT data, or there is no room: raise "
        "stage.max_response_length, keep stage.missing_eos=replace, or train SFT on answers that end"
    )


def length_hack(history: History, limits: SentinelSettings) -> str | None:
    """Length grows, and the score rises and falls with it over the updates (Pearson's correlation)."""
    if limits.length_growth is None or not history.knows(LENGTH, 2 * limits.window):
        return None
    then, now = history.start(LENGTH), history.now(LENGTH)
    if now < limits.length_growth * then or history.now(SCORES) <= history.start(SCORES):
        return None
    together = correlation(history.seen[LENGTH], history.seen[SCORES])
    if together < limits.length_correlation:
        return None
    return (
        f"the score is being raised by length: responses grew from {then:.3g} to {now:.3g} tokens, and length and "
        f"score move together (correlation {together:.2f}); commonly the reward likes long answers: train it on pairs "
        "of like length, take a length term into the reward, or lower stage.max_response_length"
    )


def repeating(history: History, limits: SentinelSettings) -> str | None:
    if limits.repetition is None or not history.knows(REPETITION) or history.now(REPETITION) <= limits.repetition:
        return None
    return (
        f"the responses repeat themselves: {history.now(REPETITION):.0%} of their 4-grams have stood there before, "
        f"more than {limits.repetition:.0%}; commonly the reward does not mind loops: raise stage.kl_coef, or take a "
        "term against repetition into the reward"
    )


def entropy_collapse(history: History, limits: SentinelSettings) -> str | None:
    if limits.entropy_share is None or not history.knows(ENTROPY, 2 * limits.window):
        return None
    then, now = history.start(ENTROPY), history.now(ENTROPY)
    if now >= limits.entropy_share * then:
        return None
    return (
        f"the entropy has collapsed: from {then:.2g} to {now:.2g} nats a token, below {limits.entropy_share:.0%} of "
        "what it was, so nothing new is tried any more; commonly the steps are too large or nothing holds the policy: "
        "lower stage.learning_rate, or raise stage.kl_coef"
    )


def over_optimised(history: History, limits: SentinelSettings) -> str | None:
    """The gold score has fallen from its best window while the score has risen since (Gao et al. 2022).

    The fall is measured in the noise of the gold score from one update to the next.
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
        "model is wrong where the policy has gone: stop at the best gold score, raise stage.kl_coef, or mend the reward"
    )


def all_alike(history: History, limits: SentinelSettings) -> str | None:
    if limits.distinct is None or not history.knows(DISTINCT) or history.now(DISTINCT) >= limits.distinct:
        return None
    return (
        f"the responses are becoming one: {history.now(DISTINCT):.0%} of a batch differ, fewer than "
        f"{limits.distinct:.0%}; commonly one answer suits the reward whatever was asked: raise stage.kl_coef, lower "
        "stage.learning_rate, or look at what the reward gives that answer"
    )


Rule = Callable[[History, SentinelSettings], str | None]
RULES: tuple[Rule, ...] = (
    critic_not_learning,
    steps_too_large,
    kl_running_away,
    kl_negative,
    no_eos,
    length_hack,
    repeating,
    entropy_collapse,
    over_optimised,
    all_alike,
)


def correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Pearson's, and 0 where one of the two does not vary."""
    return statistics.correlation(x, y) if min(statistics.pvariance(x), statistics.pvariance(y)) > 0 else 0.0


def noise(values: Sequence[float]) -> float:
    """Standard deviation of one value about a slow trend, from the median absolute step between neighbours.

    A step of two independent values has √2 times their deviation, and of a normal the median of |x| is 0.6745 σ.
    """
    steps = [abs(later - earlier) for earlier, later in pairwise(values)]
    return statistics.median(steps) / (0.6745 * 2**0.5)
