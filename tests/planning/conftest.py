"""Settings of stages that start from a tiny architecture or from the stated shape of a large one."""

from collections.abc import Callable
from functools import cache

import pytest

from rlhf.config import Settings
from rlhf.config.plan import PlanStage
from rlhf.planning.estimate import Outlook, look_ahead
from rlhf.planning.workload import Rows
from tests.conftest import composed

ROWS = {
    "base": Rows(100, [(50,)], "counted"),
    "sft": Rows(100, [(30, 20)], "counted"),
    "reward": Rows(100, [(30, 20, 10)], "counted"),
    "dpo": Rows(100, [(30, 20, 10)], "counted"),
    "kto": Rows(100, [(30, 20)], "counted"),
    "ppo": Rows(100, [(30,)], "counted"),
    "online_dpo": Rows(100, [(30, 20, 20)], "counted"),
    "raft": Rows(100, [(30, 20)], "counted"),
}


@cache
def plan_of(*overrides: str) -> PlanStage:
    stage = composed("stage=plan", *overrides).stage
    assert isinstance(stage, PlanStage)
    return stage


@pytest.fixture
def ahead() -> Callable[..., Outlook]:
    """The outlook of a stage of a model of 1B on a GPU of 80 GiB, on rows of a known length."""

    def of(stage: str, *overrides: str, plan: tuple[str, ...] = ("stage.device=a100-80gb",)) -> Outlook:
        return look_ahead(given(stage, *overrides), plan_of(*plan), ROWS[stage])

    return of


@cache
def given(stage: str, *overrides: str) -> Settings:
    return composed(f"stage={stage}", "experiment=none", "model=llama-3.2-1b", "data=local", *overrides)
