from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.config import Settings
from rlhf.errors import ConfigError
from rlhf.evaluation.judges.endpoint import EndpointJudge
from rlhf.evaluation.judges.factory import build
from rlhf.evaluation.judges.judge import LocalJudge, RewardJudge
from rlhf.runs.parents import find_parent
from tests.conftest import composed


def length(prompts: list, completions: list[str]) -> list[float]:
    return [float(len(completion)) for completion in completions]


def judge(*overrides: str) -> Any:
    settings: Settings = composed("stage=compare", "hardware=cpu", *overrides)
    run: Any = {role: find_parent(role, wanted, settings) for role, wanted in settings.judge.inputs().items()}
    return build(settings, run)  # of a run, a judge reads only its parent


def test_a_function_prefers_the_response_that_it_scores_higher() -> None:
    found = judge("judge=function", "judge.function=tests.evaluation.judges.test_factory:length")
    assert isinstance(found, RewardJudge)
    assert found(["q", "q", "q"], ["aa", "a", "a"], ["b", "b", "bb"]) == [1.0, 0.5, 0.0]


def test_an_endpoint_is_asked_with_its_own_settings() -> None:
    found = judge("judge=endpoint", "judge.url=http://localhost:1/v1", "judge.model=some-model")
    assert isinstance(found, EndpointJudge)


@pytest.mark.parametrize("kind", ["none", "person"])
def test_nobody_and_people_are_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"judge={kind} cannot be asked here: set judge to function, reward, local"):
        judge(f"judge={kind}")


@pytest.mark.parametrize(("kind", "stage", "made"), [("reward", "reward", RewardJudge), ("local", "sft", LocalJudge)])
def test_a_model_judges_with_its_own_lengths(
    chain: Path, monkeypatch: pytest.MonkeyPatch, kind: str, stage: str, made: Callable
) -> None:
    found = judge(f"judge={kind}", f"judge.model={chain}/almanac/{stage}", "judge.max_length=77", "judge.batch_size=3")
    assert isinstance(found, made)
    scorer = found.reward if kind == "reward" else found
    assert (scorer.max_length, scorer.batch_size) == (77, 3)
