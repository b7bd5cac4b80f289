"""The rules of stage=plan's settings."""

import pytest

from rlhf.config import PLANNED, STAGES, TrainedStage
from rlhf.errors import ConfigError
from tests.planning.conftest import plan_of


def test_what_is_planned_is_what_trains() -> None:
    assert [name for name, stage in STAGES.items() if issubclass(stage, TrainedStage)] == list(PLANNED)


def test_numbers_go_before_a_name() -> None:
    assert plan_of().here
    named = plan_of("stage.device=h100-80gb", "stage.tflops=500")
    assert not named.here
    assert named.machine() == {"memory_gib": 79.6, "tflops": 500, "bandwidth": 3350}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["stage.stages=[]"], r"stage\.stages must name a stage"),
        (["stage.overrides=[a]"], r"stage\.overrides must map stages to lists of settings"),
        (["stage.overrides={sft: a}"], r"stage\.overrides\.sft must be a list of settings"),
        (["stage.gpus=0"], r"stage\.gpus must be positive"),
        (["stage.mfu=1.5"], r"stage\.mfu must lie in \(0, 1\]"),
        (["stage.headroom=1"], r"stage\.headroom must lie in \[0, 1\), got 1"),
        (["stage.probe_seconds=0"], r"stage\.probe_seconds must be positive"),
    ],
)
def test_mistakes_are_told(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        plan_of(*overrides)
