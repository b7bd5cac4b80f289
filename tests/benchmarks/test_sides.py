"""Turns between processes: what is compared, in which order, and what becomes of a side that ends."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sides

SIDE = """
import time
from sides import serve

def make(spec):
    print("libraries print what they like")
    held = bytearray(spec["held"] << 20)
    def step(number):
        if number == spec.get("fails"):
            raise ValueError("not this piece")
        until = time.process_time() + spec["cpu"]
        while time.process_time() < until:
            pass
        return {"samples": 2, "tokens": 10, "number": number, "held": len(held)}
    return step

if __name__ == "__main__":
    serve(make)
"""


@pytest.fixture
def side(tmp_path: Path) -> str:
    path = tmp_path / "side.py"
    path.write_text(SIDE)
    return str(path)


def test_twice_the_work_takes_twice_the_seconds_of_the_processor(side: str) -> None:
    both = {"ours": sides.Side(side), "peer": sides.Side(side, spec={"cpu": 0.2})}
    found = sides.interleave(both, {"cpu": 0.1, "held": 0}, rounds=2, warmup=1)
    assert [r["number"] for r in found["ours"]["rounds"]] == [1, 2]
    middle, least, most = sides.ratio(found, "peer")
    assert least <= middle <= most
    assert middle == pytest.approx(2, rel=0.2)
    assert sides.per_sample(found, "peer")[0] == pytest.approx(0.1, rel=0.2)


def test_no_round_begins_after_enough_seconds(side: str) -> None:
    found = sides.interleave({"ours": sides.Side(side)}, {"cpu": 0.05, "held": 0}, rounds=50, warmup=1, enough=0.01)
    assert [r["number"] for r in found["ours"]["rounds"]] == [1]


def test_memory_is_what_a_side_makes_and_not_what_it_imports(side: str) -> None:
    both = {"ours": sides.Side(side), "peer": sides.Side(side, spec={"held": 80})}
    found = sides.interleave(both, {"cpu": 0.0, "held": 20}, rounds=1)
    difference = sides.peak(found, "peer") - sides.peak(found, "ours")
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak is not forgotten on this system")
    assert difference == pytest.approx(60 << 20, rel=0.15)


def test_a_side_that_ends_is_reported(side: str) -> None:
    with pytest.raises(sides.SideError, match="peer ended with exit code 1"):
        sides.interleave({"peer": sides.Side(side, spec={"fails": 0})}, {"cpu": 0.0, "held": 0})


def measured(target: float | None) -> dict[str, Any]:
    """A row of three rounds."""
    rounds = {"ours": [(1.0, 10), (1.0, 12), (2.0, 11)], "trl": [(3.0, 20), (2.0, 20), (4.0, 20)]}
    work = {"samples": 4, "tokens": 400}
    found = {
        name: {"rounds": [work | {"cpu": cpu, "seconds": cpu / 2, "peak": peak << 20} for cpu, peak in each]}
        for name, each in rounds.items()
    }
    return sides.row(found, "DPO", "trl", target, lambda side, each: each)


def test_a_row_says_what_the_table_needs() -> None:
    row = measured(2.5)
    assert (row["ratio"], row["spread"]) == (2.0, [2.0, 3.0])
    assert row["memory_ratio"] == 0.6  # 12 of 20
    assert row["sides"]["ours"] == {
        "samples_per_cpu_second": 4.0,
        "tokens_per_cpu_second": 400.0,
        "peak_mib": 12.0,
        "utilization": 0.25,
    }


def test_useful_work_is_counted_by_parameters_and_tokens() -> None:
    assert sides.utilization(parameters=10, tokens=100, seconds=2.0, peak=6000.0) == pytest.approx(0.5)
    assert sides.utilization(10, 100, 2.0, 6000.0, trained=False) == pytest.approx(0.5 / 3)


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []
    monkeypatch.setattr(sides.venv, "create", lambda place, **_: made.append(place) or place.mkdir(parents=True))
    monkeypatch.setattr(sides.subprocess, "run", lambda command, check: made.append(command))
    python = sides.environment("peer", ["trl==1.12.0"])
    assert sides.environment("peer", ["trl==1.12.0"]) == python
    assert len(made) == 2  # made, filled, and kept
    assert made[1][-1] == "trl==1.12.0"
    assert sides.environment("peer", ["trl==1.13.0"]) != python


def test_a_record_says_when_where_and_how(tmp_path: Path) -> None:
    path = tmp_path / "dpo.json"
    sides.record(path, {"rows": []})
    found = json.loads(path.read_text())
    assert found["command"].startswith("python -m benchmarks.dpo")
    assert found["machine"]["cores"] == os.cpu_count()
    assert found["machine"]["python"] == ".".join(map(str, sys.version_info[:3]))
