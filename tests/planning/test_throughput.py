"""Hours by hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from rlhf.hardware.memory import cache
from rlhf.planning.estimate import Outlook
from rlhf.planning.throughput import Pace, assumed, operations, pace_of, seconds, stated
from rlhf.planning.workload import Work
from tests.conftest import composed
from tests.planning.conftest import plan_of

Ahead = Callable[..., Outlook]
GPU = ("stage.device=a100-80gb",)


def test_operations() -> None:
    given = ("stage=sft", "experiment=none", "data=local")
    assert operations(composed(*given)) == 6
    assert operations(composed(*given, "adapter=lora")) == 4
    assert operations(composed(*given, "stage.trainer.activation_checkpointing=true")) == 8
    assert operations(composed("stage=ppo")) == 6


def test_an_hour_of_a_gpu_by_hand(ahead: Ahead) -> None:
    """6 · 1,235,814,400 operations per token at 40 % of 312 TFLOP/s: 16,831 tokens per second."""
    outlook, plan = ahead("sft"), plan_of(*GPU)
    pace = assumed(outlook, plan)
    assert 1 / pace.train == pytest.approx(0.4 * 312e12 / (6 * 1_235_814_400))
    assert seconds(outlook, pace) == pytest.approx(100 * 50 * pace.train)
    assert "40% of 312 TFLOP/s" in pace.source


def test_a_sampled_token_reads_weights_and_cache(ahead: Ahead) -> None:
    outlook, plan = ahead("ppo", "stage.batch_size=8"), plan_of(*GPU)
    size, work = outlook.model.size, outlook.work
    held = size.weights + cache(size.shape, work.rows, work.longest, 2)
    assert assumed(outlook, plan).draw == pytest.approx(held / (0.5 * 2039e9))
    many = replace(outlook, work=replace(work, rows=1_000_000, longest=1))  # no longer limited by bandwidth
    assert assumed(many, plan).draw == pytest.approx(1_000_000 * assumed(outlook, plan).read, rel=0.2)


def test_seconds_are_a_sum(ahead: Ahead) -> None:
    work = Work(steps=3, tokens=0, trained=100, read=50, drawn=40, rows=4)
    outlook = replace(ahead("sft"), work=work)
    assert seconds(outlook, Pace(1, 0.5, 7, 2, "")) == 100 + 25 + 10 * 7 + 6
    eight = ahead("sft", plan=(*GPU, "stage.gpus=8"))
    assert seconds(eight, Pace(1, 0, 0, 0, "")) == pytest.approx(100 * 50 / 8)


def test_stated_tokens_per_second(ahead: Ahead) -> None:
    pace = stated(ahead("dpo"), 1000)
    assert pace.train == 0.001
    assert pace.read == pytest.approx(0.001 / 3)
    assert pace_of(ahead("dpo"), plan_of("stage.tokens_per_second=1000", *GPU)) == pace


def test_no_pace_without_a_source(ahead: Ahead, monkeypatch: pytest.MonkeyPatch) -> None:
    here = ("stage.device=this", "stage.probe=false")
    outlook = ahead("sft", "hardware=cpu", plan=here)
    assert pace_of(outlook, plan_of(*here)) is None
    small = replace(outlook, machine=replace(outlook.machine, room=1))
    assert pace_of(small, plan_of("stage.device=this")) is None
