"""The sentinel: watches the metrics of every update and names a failure in words, once, while something can be done.

Each rule below is a pure function of what has been seen so far: medians over a window of updates, so that one noisy
batch raises no alarm. It returns a sentence that says what is wrong, with its numbers, what usually causes it and
the remedy. The thresholds are those of ``stage.sentinel``.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rlhf.config.sentinel import SentinelSettings
from rlhf.errors import TrainingError

KL, SCORES, GOLD = "objective/kl", "objective/scores", "objective/gold"
STEP_KL, ENTROPY = "policy/approxkl_avg", "policy/entropy_avg"
VARIANCE, ENDED, LENGTH = "val/explained_variance", "val/ended", "val/response_length"
REPETITION, DISTINCT = "val/repetition", "val/distinct"
WATCHED = (KL, SCORES, GOLD, STEP_KL, ENTROPY, VARIANCE, ENDED, LENGTH, REPETITION, DISTINCT)


class Diagnosis(NamedTuple):
    """``text`` is one sentence; ``numbers`` are the medians of the last window when it was raised."""

    name: str
    update: int
    text: str
    numbers: dict[str, float]

    def record(self) -> dict[str, Any]:
        return {"step": self.update, "diagnosis": self.name, "text": self.text, "medians": self.numbers}


class DiagnosedError(TrainingError):
    """A failure with which training cannot go on as it is."""

    def __init__(self, diagnosis: Diagnosis):
        super().__init__(diagnosis.text)
        self.diagnosis = diagnosis


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
    if limits.step_kl is None or not history.knows(STEP_KL) or history.now(STEP_KL) <= limits.step_kl:
        return None
    return (
        f"the steps are too large: within an update the policy moves {history.now(STEP_KL):.2g} nats a token, more "
        f"than {limits.step_kl:g}, so that most of the clipped loss teaches nothing; commonly the learning rate is "
        "too high: lower stage.learning_rate or stage.epochs"
    )


def kl_running_away(history: History, limits: SentinelSettings) -> str | None:
    """Σₜ log π - log π_ref of a response, in nats."""
    if limits.kl_most is None or not history.knows(KL) or history.now(KL) <= limits.kl_most:
        return None
    return (
        f"the policy is running away from its reference: the KL is {history.now(KL):.3g} nats a response, above "
        f"{limits.kl_most:g}, where a score says little of quality; commonly the pull towards the reference is too "
        "weak for the learning rate: raise stage.kl_coef or lower stage.learning_rate"
    )


def kl_negative(history: History, limits: SentinelSettings) -> str | None:
    """In expectation the KL is never negative, if the responses were drawn from the policy."""
    if limits.kl_least is None or not history.knows(KL) or history.now(KL) >= limits.kl_least:
        return None
    return (
        f"the KL is negative: {history.now(KL):.3g} nats a response, below {limits.kl_least:g}, which cannot be if "
        "the policy wrote the responses; commonly they come from other weights or through a filter (top-k, a minimal "
        "length, another temperature): sample from the policy itself, at stage.temperature alone"
    )


def no_eos(history: History, limits: SentinelSettings) -> str | None:
    if limits.ended is None or not history.knows(ENDED, limits.grace + limits.window):
        return None
    if history.now(ENDED) >= limits.ended:
        return None
    return (
        f"the responses do not end: {history.now(ENDED):.0%} of them write the end of sequence, fewer than "
        f"{limits.ended:.0%}; commonly pad and end are one token in the SFT data, or there is no room: raise "
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
    steps = [abs(later - earlier) for earlier, later in zip(values, values[1:], strict=False)]
    return statistics.median(steps) / (0.6745 * 2**0.5)


class Sentinel:
    """Raises each diagnosis once; it is raised again only after it has not held for a whole window."""

    def __init__(self, limits: SentinelSettings):
        self.limits = limits
        self.history = History(limits.window)
        self.active: dict[str, int] = {}  # diagnosis -> updates for which it has not held any more
        self.raised: list[Diagnosis] = []
        self.rollbacks = 0

    @property
    def healthy(self) -> bool:
        return not self.active

    @property
    def rate_factor(self) -> float:
        """What the learning rates are multiplied by after the rollbacks so far."""
        return self.limits.rollback_factor**self.rollbacks

    def observe(self, metrics: Mapping[str, float], update: int) -> list[Diagnosis]:
        """What the metrics of ``update`` have made true that was not before."""
        self.history.add(metrics)
        new = []
        for rule in RULES:
            name = rule.__name__
            text = rule(self.history, self.limits)
            if text is not None:
                if name not in self.active:
                    new.append(Diagnosis(name, update, f"update {update}: {text}", self.history.latest()))
                self.active[name] = 0
            elif name in self.active:
                self.active[name] += 1
                if self.active[name] >= self.limits.window:
                    del self.active[name]
        self.raised += new
        return new

    def broken(self, name: str, update: int, text: str) -> DiagnosedError:
        """A failure that the trainer has met itself, to be raised; it is noted like the others."""
        diagnosis = Diagnosis(name, update, f"update {update}: {text}", self.history.latest())
        self.active[name] = 0
        self.raised.append(diagnosis)
        return DiagnosedError(diagnosis)

    def roll_back(self, state: Mapping[str, Any]) -> None:
        """Forget what was seen since ``state``, but not what was raised, and count."""
        raised, rollbacks = self.raised, self.rollbacks
        self.load_state_dict(state)
        self.raised, self.rollbacks = raised, rollbacks + 1

    def state_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        return {
            "seen": self.history.seen,
            "active": self.active,
            "raised": [list(diagnosis) for diagnosis in self.raised],
            "rollbacks": self.rollbacks,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.history.seen = {name: list(values) for name, values in state["seen"].items()}
        self.active = dict(state["active"])
        self.raised = [Diagnosis(*fields) for fields in state["raised"]]
        self.rollbacks = state["rollbacks"]
