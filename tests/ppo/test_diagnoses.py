"""Each rule on series of numbers: it detects its failure, ignores noisy batches, and depends on its own limit."""

import random
from collections.abc import Iterable
from dataclasses import fields, replace

import pytest

from rlhf.config import SentinelSettings
from rlhf.ppo import settings
from rlhf.ppo.diagnoses import (
    DISTINCT,
    ENDED,
    ENTROPY,
    EQUAL,
    FAR,
    GOLD,
    KL,
    LENGTH,
    REPETITION,
    RULES,
    SCORES,
    STEP_KL,
    VARIANCE,
    History,
    Rule,
    all_alike,
    correlation,
    critic_not_learning,
    entropy_collapse,
    falls,
    kl_negative,
    kl_running_away,
    length_hack,
    no_eos,
    no_signal,
    noise,
    off_distribution,
    over_optimized,
    repeating,
    steps_too_large,
)

LIMITS = settings().sentinel
HEALTHY = {
    KL: lambda t: min(t, 10) / 10,
    SCORES: lambda t: 1 - 0.9**t,
    GOLD: lambda t: 1 - 0.9**t,
    STEP_KL: lambda t: 0.01,
    ENTROPY: lambda t: 0.2 + 0.2 * 0.9**t,
    VARIANCE: lambda t: 0.8 - 2 * 0.8**t,
    ENDED: lambda t: min(1, 0.3 + t / 20),
    LENGTH: lambda t: 20 - t / 10,
    REPETITION: lambda t: 0.03,
    DISTINCT: lambda t: 0.95,
    EQUAL: lambda t: 0.3,
    FAR: lambda t: 0.05,
}
# rule -> (the unhealthy metrics over updates; the first update at which it must be raised, with the default limits)
ILL = {
    critic_not_learning: ({VARIANCE: lambda t: -0.2}, 15),
    steps_too_large: ({STEP_KL: lambda t: 0.5}, 5),
    kl_running_away: ({KL: lambda t: 10.0 * t}, 5),
    kl_negative: ({KL: lambda t: -2.0}, 5),
    no_eos: ({ENDED: lambda t: 0.0}, 15),
    length_hack: ({LENGTH: lambda t: 10.0 + t, SCORES: lambda t: float(t)}, 10),
    no_signal: ({EQUAL: lambda t: 0.95}, 5),
    repeating: ({REPETITION: lambda t: 0.6}, 5),
    entropy_collapse: ({ENTROPY: lambda t: 0.5**t}, 10),
    over_optimized: ({GOLD: lambda t: 5 - t / 2 + 0.1 * (t % 2), SCORES: lambda t: float(t)}, 10),
    off_distribution: ({FAR: lambda t: 0.8}, 5),
    all_alike: ({DISTINCT: lambda t: 1 / 64}, 5),
}


def history(series: dict, updates: int, metrics: Iterable[str] = HEALTHY, noise: float = 0.0) -> History:
    found, generator = History(LIMITS.window), random.Random(0)
    for t in range(updates):
        values = {name: (HEALTHY | series)[name](t) for name in metrics}
        found.add({name: value * (1 + generator.gauss(0, noise)) for name, value in values.items()})
    return found


def test_every_rule_is_tested_and_every_limit_is_used() -> None:
    assert set(RULES) == set(ILL)
    assert len({rule.__name__ for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_healthy_run_raises_nothing(rule: Rule) -> None:
    for updates in (0, 1, 5, 10, 15, 40):
        assert rule(history({}, updates), LIMITS) is None
        assert rule(history({}, updates, noise=0.05), LIMITS) is None


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_diagnosis_is_one_sentence_with_numbers_and_a_remedy(rule: Rule) -> None:
    text = rule(history(ILL[rule][0], 30), LIMITS)
    assert text is not None
    assert any(character.isdigit() for character in text)
    assert "commonly" in text
    assert text.count(": ") >= 2
    assert not text.endswith(".")
    assert ". " not in text


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_diagnosis_is_raised_as_soon_as_its_windows_are_full(rule: Rule) -> None:
    series, first = ILL[rule]
    raised = [updates for updates in range(1, 40) if rule(history(series, updates), LIMITS)]
    assert raised[0] == pytest.approx(first, abs=5)
    assert raised[0] >= LIMITS.window


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_two_noisy_batches_in_a_window_raise_no_alarm(rule: Rule) -> None:
    ill = ILL[rule][0]
    spiked = {
        name: lambda t, name=name, value=value: value(t) if t in (27, 29) else HEALTHY[name](t)
        for name, value in ill.items()
    }
    assert rule(history(spiked, 30), LIMITS) is None
    assert rule(history(ill, 30), LIMITS) is not None


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_null_or_a_missing_metric_disables_a_rule(rule: Rule) -> None:
    series = ILL[rule][0]
    optional = [field.name for field in fields(SentinelSettings) if field.type == float | None]
    switches = [name for name in optional if rule(history(series, 30), replace(LIMITS, **{name: None})) is None]
    assert len(switches) == 1
    assert rule(history(series, 30, metrics=set(HEALTHY) - set(series) | {SCORES}), LIMITS) is None


def test_length_without_score_is_not_a_hack() -> None:
    longer = {LENGTH: lambda t: 10.0 + t}
    assert length_hack(history(longer | {SCORES: lambda t: -float(t)}, 30), LIMITS) is None
    assert length_hack(history(longer | {SCORES: lambda t: (7 * t) % 5 + t / 100}, 30), LIMITS) is None


def test_gold_and_score_that_fall_together_are_not_over_optimization() -> None:
    falling = {GOLD: lambda t: 5 - t / 2 + 0.1 * (t % 2), SCORES: lambda t: -float(t)}
    assert over_optimized(history(falling, 30), LIMITS) is None


def test_the_fall_of_the_gold_score_is_measured_in_its_noise() -> None:
    """A fall by 2 in 20 updates is many deviations if consecutive values differ by 0.1, and none if by 4."""
    for step, raised in ((0.1, True), (4.0, False)):
        series = {GOLD: lambda t, step=step: -t / 10 + step * (t % 2), SCORES: lambda t: float(t)}
        assert (over_optimized(history(series, 30), LIMITS) is not None) is raised


def test_the_shadow_that_falls_first_is_first() -> None:
    """Both wave by 0.1 and fall by 0.5 per update, from updates 10 and 20 on; the third rises, the fourth is short."""
    names = [f"shadow/{name}" for name in ("late", "early", "rising", "short")]
    found = History(LIMITS.window)
    for t in range(40):
        wave = 0.1 * (t % 2)
        values = [wave - max(t - 20, 0) / 2, wave - max(t - 10, 0) / 2, wave + t / 9, wave]
        shadows = dict(zip(names, values, strict=True)) if t < 3 else dict(zip(names[:3], values, strict=False))
        found.add(shadows | {f"{name}_std": 1.0 for name in shadows} | {SCORES: float(t)})
    early, late, rising = falls(found, LIMITS)
    assert (early.name, late.name, rising.name) == ("shadow/early", "shadow/late", "shadow/rising")
    assert 10 < early.update < 20 < late.update < 30
    assert early.last < early.best == pytest.approx(0.1)
    assert rising.update is None


def test_noise_of_independent_normal_values() -> None:
    generator = random.Random(0)
    assert noise([generator.gauss(3, 2) for _ in range(4000)]) == pytest.approx(2, rel=0.05)


def test_correlation_by_hand() -> None:
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert correlation([1, 1, 1], [3, 2, 1]) == 0


def test_medians_by_hand() -> None:
    found = History(3)
    for value in (1.0, 5.0, 2.0, 9.0):
        found.add({KL: value, "unwatched": 1.0})
    assert found.start(KL) == 2
    assert found.now(KL) == 5
    assert found.medians(KL) == [2, 5]
    assert found.latest() == {KL: 5}
    assert found.knows(KL)
    assert not found.knows(KL, 5)
    assert not found.knows(GOLD)
