"""A probe by a clock of which every call takes a second; and one by a real clock."""

import re
from pathlib import Path

import pytest
import torch

from rlhf.config import Settings
from rlhf.planning.estimate import Outlook, look_ahead
from rlhf.planning.probe import REPEATS, Timer, probe
from tests.conftest import ALIGNED, FAST, TINY, composed
from tests.planning.conftest import ROWS, plan_of


class Clock:
    """A clock that advances by half a second per reading, so that everything takes half a second."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.looks / 2


def outlook(stage: str, root: Path, *more: str) -> Outlook:
    settings: Settings = composed(f"stage={stage}", f"checkpoints={root}", "hardware=cpu", *TINY, *FAST[stage], *more)
    return look_ahead(settings, plan_of(), ROWS[stage])


@pytest.mark.parametrize("stage", ["base", "sft", "reward", "dpo", "ppo", "online_dpo", "raft"])
@pytest.mark.parametrize("adapter", ["adapter=none", "adapter=lora"])
def test_every_stage_is_timed(stage: str, adapter: str, tmp_path: Path) -> None:
    one = outlook(stage, tmp_path, adapter, *(["stage.policy=another/model"] if stage == "base" else []))
    pace = probe(one, 100.0, Clock())
    tokens = one.work.at_once * one.work.typical
    assert pace.train == pytest.approx(0.5 / tokens)
    assert pace.step == 0.5
    assert pace.read == pytest.approx(0.5 / tokens if stage in ALIGNED else 0)
    assert (pace.draw > 0) == (stage in ALIGNED[1:])
    assert f"{1 / pace.train:,.0f} tokens per second" in pace.source
    assert re.search(r", at a load of \d+\.\d on \d+ cores$", pace.source)


def test_checkpointing_is_probed_as_it_would_run(tmp_path: Path) -> None:
    one = outlook("sft", tmp_path, "stage.trainer.activation_checkpointing=true")
    assert probe(one, 1.0).train > 0


def test_a_long_step_is_made_once() -> None:
    calls = []
    timer = Timer(Clock(), budget=0.9, device=torch.device("cpu"))
    assert timer(lambda: calls.append(1)) == 0.5
    assert len(calls) == 1
    patient = Timer(Clock(), budget=100, device=torch.device("cpu"))
    assert patient(lambda: calls.append(1)) == 0.5
    assert len(calls) == 1 + 1 + REPEATS


def test_the_random_numbers_of_others_are_unchanged(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    probe(outlook("sft", tmp_path), 0.1)
    assert torch.equal(torch.rand(2), expected)
