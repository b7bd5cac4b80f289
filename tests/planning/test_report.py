"""What a person reads, in 80 columns and in 120."""

import re
from collections.abc import Callable

import pytest
import torch

from rlhf.planning import report
from rlhf.planning.estimate import Outlook
from rlhf.planning.remedies import tried
from rlhf.planning.throughput import Pace
from tests.planning.conftest import ROWS, plan_of

Ahead = Callable[..., Outlook]
SMALL = ("stage.device=a100-80gb", "stage.memory_gib=20")
PACE = Pace(0.001, 0.0005, 0.01, 0, "stated: 1000 tokens per second")


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_into_the_terminal(
    width: int, ahead: Ahead, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("rlhf.console.console.width", width, raising=False)
    outlook = ahead("ppo", plan=SMALL)
    report.show(outlook, PACE)
    report.show_remedies("ppo", tried(outlook, plan_of(*SMALL), ROWS["ppo"]))
    report.console.print(report.overview([(outlook, PACE), (ahead("sft"), None)]))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    told = " ".join(shown.split())
    assert "ppo: 1.24 B parameters (stage.shapes.meta-llama/Llama-3.2-1B), every weight trained in bfloat16" in told
    assert "ppo: does not fit: " in told
    assert "shared base" not in told
    assert "stated: 1000 tokens per second" in told
    assert "no time is lost" not in told


def test_the_highest_phase_is_marked(ahead: Ahead, capsys: pytest.CaptureFixture) -> None:
    outlook = ahead("sft")
    report.show(outlook, None)
    shown = capsys.readouterr().out
    assert f"{outlook.ledger.highest.name} *" in shown
    assert shown.count(" *") == 1
    assert "time is unknown" in shown


def test_adapters_and_gpus_are_named(ahead: Ahead) -> None:
    outlook = ahead("sft", "adapter=qlora", plan=("stage.device=a100-80gb", "stage.gpus=8", "stage.strategy=fsdp"))
    assert report.trained(outlook) == "adapters of rank 16 trained over 4 bits"
    assert report.spread(outlook) == "on 8 x a100-80gb by fsdp"
    assert "over all devices" in report.lasting(outlook, PACE)


def test_parts_that_are_not_planned_are_reported(ahead: Ahead, capsys: pytest.CaptureFixture) -> None:
    for dtype, count in (("float32", 1), ("bfloat16", 0)):
        report.show(ahead("sft", f"model.dtype={dtype}", plan=SMALL), None)
        assert " ".join(capsys.readouterr().out.split()).count("autocast makes are not counted") == count


def test_no_remedy_is_enough(ahead: Ahead, capsys: pytest.CaptureFixture) -> None:
    given = ("stage.device=a100-80gb", "stage.memory_gib=0.1")
    report.show_remedies("sft", tried(ahead("sft", plan=given), plan_of(*given), ROWS["sft"]))
    assert "no remedy is enough" in " ".join(capsys.readouterr().out.split())


def test_the_table_before_a_stage(ahead: Ahead, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = ahead("ppo").ledger
    for free, told in (
        (2 * ledger.peak, "free on this machine"),
        (1000, "this is too much: run the same command with"),
    ):
        monkeypatch.setattr("rlhf.planning.report.available", lambda device, free=free: free)
        report.show_ledger("ppo", ledger, torch.device("cpu"))
        shown = " ".join(capsys.readouterr().out.split())
        assert "ppo: memory of one device, planned" in shown
        assert re.search(r"ppo: peak [\d.]+ \w+ \(policy loss\), [\d.]+ \w+ free on this machine", shown)
        assert {"phase", "total"} <= set(shown.split())
        assert told in shown
