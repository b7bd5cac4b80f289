"""When a diagnosis is raised, when it is raised again, and the state that a run keeps of it."""

import json
from dataclasses import replace

import pytest

from rlhf.errors import ConfigError, TrainingError
from rlhf.ppo import Sentinel, settings
from rlhf.ppo.diagnoses import DISTINCT, KL
from rlhf.ppo.sentinel import STOPPED, BrokenError

LIMITS = settings().sentinel


def observed(sentinel: Sentinel, values: list[float], start: int = 1) -> list[tuple[str, int]]:
    found = []
    for update, value in enumerate(values, start):
        found += [(diagnosis.name, diagnosis.update) for diagnosis in sentinel.observe({KL: value}, update)]
    return found


def test_a_diagnosis_is_raised_once_and_again_after_an_inactive_window() -> None:
    """The median of five is above 25 from the third high value until the third low one."""
    sentinel = Sentinel(LIMITS)
    assert observed(sentinel, [0.0] * 5 + [50.0] * 20) == [("kl_running_away", 8)]
    assert not sentinel.healthy
    assert observed(sentinel, [0.0] * 4 + [50.0] * 6) == []  # a short recovery does not end it
    assert observed(sentinel, [0.0] * 7) == []
    assert sentinel.healthy
    assert observed(sentinel, [50.0] * 5, start=43) == [("kl_running_away", 45)]


def test_a_diagnosis_carries_its_update_and_its_medians() -> None:
    sentinel = Sentinel(LIMITS)
    for update in range(1, 6):
        found = sentinel.observe({KL: 30.0 + update, DISTINCT: 0.01}, update)
    assert [diagnosis.name for diagnosis in found] == ["kl_running_away", "all_alike"]
    assert found[0].update == 5
    assert found[0].medians == {KL: 33.0, DISTINCT: 0.01}
    assert str(found[0]).startswith("update 5: the policy is running away from its reference: the KL is 33 nats")
    assert json.loads(json.dumps(found[0].record()))["step"] == 5


def test_equal_metrics_give_equal_decisions() -> None:
    """Ranks with the same numbers decide the same."""
    values = [float(value) for value in range(60)]
    assert observed(Sentinel(LIMITS), values) == observed(Sentinel(LIMITS), values) != []


def test_a_sentinel_restored_from_json_continues_unchanged() -> None:
    values = [0.1 * value for value in range(300)]
    for cut in (1, 7, 251, 253, 258):
        straight, first = Sentinel(LIMITS), Sentinel(LIMITS)
        expected = observed(straight, values)
        found = observed(first, values[:cut])
        first.raised += [sentinel_diagnosis(first)]
        resumed = Sentinel(LIMITS)
        resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert resumed.raised == first.raised
        assert found + observed(resumed, values[cut:], start=cut + 1) == expected
        assert resumed.history.seen == straight.history.seen
        assert resumed.active == straight.active


def sentinel_diagnosis(sentinel: Sentinel):
    return Sentinel(LIMITS).broken(BrokenError("not_finite", "a loss is not a number"), 3)


def test_a_rollback_forgets_later_metrics_and_is_counted() -> None:
    sentinel = Sentinel(replace(LIMITS, rollback_factor=0.5))
    observed(sentinel, [1.0] * 4)
    state = json.loads(json.dumps(sentinel.state_dict()))
    for update in range(5, 12):
        sentinel.raised += sentinel.observe({KL: 99.0}, update)
    assert not sentinel.healthy
    sentinel.roll_back(state)
    assert sentinel.healthy
    assert sentinel.history.seen == {KL: [1.0] * 4}
    assert [diagnosis.name for diagnosis in sentinel.raised] == ["kl_running_away"]
    assert sentinel.rate_factor == 0.5
    sentinel.roll_back(state)
    assert sentinel.rate_factor == 0.25


def test_the_diagnosis_that_stopped_a_run_is_remembered() -> None:
    sentinel = Sentinel(LIMITS)
    error = BrokenError("not_finite", "the loss is not a number")
    assert isinstance(error, TrainingError)
    broken = sentinel.broken(error, 7)
    sentinel.raised.append(broken)
    assert sentinel.stopped is None
    assert not sentinel.healthy
    sentinel.raised.append(broken._replace(action=STOPPED))
    assert sentinel.stopped == broken._replace(action=STOPPED)
    assert str(sentinel.stopped) == "update 7: the loss is not a number"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window", 0),
        ("rollback_factor", 1.0),
        ("rollbacks", -1),
        ("kl_min", 0.1),
        ("explained_variance", 1.5),
        ("distinct", 2.0),
        ("grace", -1),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"stage.sentinel.{name} must"):
        settings(sentinel={name: value})
