"""Comparisons of measured policies, with known numbers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import Settings
from rlhf.evaluation.responses.eval_set import Measured
from rlhf.evaluation.responses.policies import Policies, with_bounds
from rlhf.evaluation.statistics.metrics import Estimate
from rlhf.runs.run import Run


def preferring_a(prompts: list, completions: list[str]) -> list[float]:
    return [float(text.startswith("a")) for text in completions]


@pytest.fixture
def policies(beside_chain: Callable[..., Settings], tmp_path: Path) -> Callable[..., Policies]:
    """Policies on 4 prompts with 2 samples each; the run is stopped at once, since nothing is trained."""

    def of(*overrides: str) -> Policies:
        settings = beside_chain("online_dpo", *overrides)
        run = Run.start(tmp_path / "online_dpo", settings)
        made = Policies(settings, run)
        run.stop("failed", "on purpose")
        return made

    return of


def measured(letter: str, scores: list[float], name: str = "gold") -> Measured:
    return Measured([f"{letter}{i}" for i in range(8)], [1] * 8, [0.0] * 8, {name: scores})


def test_scores_decide_by_prompt(policies: Callable[..., Policies]) -> None:
    ours, theirs = measured("a", [1.0, 3.0] * 4), measured("b", [2.0, 2.0] * 4)
    made = policies()
    assert len(made.prompts) == 4
    assert made.win_rate(ours, theirs) == Estimate(0.5, 0.5, 0.5)
    assert made.difference("gold", ours, theirs) == Estimate(0.0, 0.0, 0.0)
    rate = made.win_rate(measured("a", [1.0, 3.0] * 2 + [9.0] * 4), theirs)
    assert rate is not None
    assert (rate.mean, rate.low < 0.75 < rate.high) == (0.75, True)
    assert with_bounds("x", rate) == {"x": 0.75, "x/low": rate.low, "x/high": rate.high}
    assert with_bounds("x", None) == {}


def test_a_judge_decides_only_without_gold(policies: Callable[..., Policies]) -> None:
    made = policies("judge=function", f"judge.function={__name__}:preferring_a", "stage.reward=null")
    ours, theirs = (measured(letter, [1.0] * 8) for letter in "ab")
    assert made.win_rate(ours, theirs) == Estimate(0.5, 0.5, 0.5)
    assert made.win_rate(ours._replace(scores={}), theirs._replace(scores={})) == Estimate(1.0, 1.0, 1.0)


def test_people_are_not_asked(policies: Callable[..., Policies]) -> None:
    made = policies("judge=person", "stage.reward=null")
    ours, theirs = (measured(letter, [1.0] * 8)._replace(scores={}) for letter in "ab")
    assert made.win_rate(ours, theirs) is None


def test_a_measurement_is_kept_with_the_checkpoints(policies: Callable[..., Policies]) -> None:
    made, calls = policies(), []
    made.run.work.mkdir(exist_ok=True)

    def compute() -> dict[str, float]:
        calls.append(True)
        return {"x": 0.1 + 0.2}

    assert made.kept("one", compute) == made.kept("one", compute) == {"x": 0.1 + 0.2}
    assert len(calls) == 1
