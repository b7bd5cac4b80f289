"""Machines, and whether a stage fits."""

from collections.abc import Callable

import pytest

from rlhf.config import Strategy
from rlhf.errors import ModelError
from rlhf.planning.estimate import Outlook, machine_of, record
from tests.conftest import composed
from tests.planning.conftest import plan_of

Ahead = Callable[..., Outlook]


def test_a_gpu_by_name_keeps_some_of_its_memory() -> None:
    machine = machine_of(composed("stage=sft"), plan_of("stage.device=a100-80gb"))
    assert machine.room == int(80 * 2**30 * 0.92)
    assert (machine.name, machine.tflops, machine.bandwidth) == ("a100-80gb", 312, 2039)
    assert machine.place.gpu


def test_a_gpu_in_numbers() -> None:
    given = ("stage.memory_gib=48", "stage.tflops=181", "stage.bandwidth=864", "stage.headroom=0")
    machine = machine_of(composed("stage=sft"), plan_of(*given))
    assert (machine.room, machine.tflops, machine.name) == (48 * 2**30, 181, "a GPU of 48 GiB")
    other = machine_of(composed("stage=sft"), plan_of("stage.device=a100-80gb", "stage.memory_gib=40"))
    assert (other.room, other.tflops) == (int(40 * 2**30 * 0.92), 312)


def test_this_machine_has_its_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf.hardware.memory.available", lambda device: 1000)
    settings = composed("stage=sft", "hardware=cpu")
    assert machine_of(settings, plan_of()).room == 1000
    assert machine_of(settings, plan_of()).place.ranks == (Strategy.none, 1)
    two = machine_of(settings, plan_of("stage.gpus=2"))
    assert (two.room, two.place.ranks) == (500, (Strategy.ddp, 2))


def test_a_missing_gpu_is_planned_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    settings = composed("stage=sft", "hardware=gpu")
    with pytest.raises(ModelError, match="torch sees no GPU"):
        machine_of(settings, plan_of())
    assert machine_of(settings, plan_of("stage.device=h100-80gb")).place.gpu


def test_whether_it_fits(ahead: Ahead) -> None:
    assert ahead("sft").fits
    small = ahead("sft", plan=("stage.device=a100-80gb", "stage.memory_gib=4"))
    assert not small.fits
    found = record(small)
    assert found["fits"] is False
    assert found["memory"]["peak"] > found["room"]
    assert found["parameters"] == 1_235_814_400
