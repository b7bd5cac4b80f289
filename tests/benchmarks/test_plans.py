"""Plans of the classic setups."""

from pathlib import Path

import pytest

from benchmarks import plans

PYTHIA = plans.SETUPS[0]


def test_eight_gpus_make_the_same_batch() -> None:
    one, eight = (plans.row(PYTHIA, "sft", gpus) for gpus in (1, 8))
    assert one["plan"]["steps"] == eight["plan"]["steps"] == 912  # 116,722 posts in batches of 128
    assert one["plan"]["parameters"] == 1_011_781_632
    assert one["gpu_hours"] == pytest.approx(eight["gpu_hours"], rel=0.01)


def test_a_remedy_is_in_the_table_with_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "DEVICE", "rtx-4090")
    found = plans.row(PYTHIA, "ppo", 1)
    assert not found["plan"]["fits"]
    fits = plans.row(PYTHIA, "reward", 1)
    heading, _, ppo, reward = plans.table([found, fits])
    assert heading.count("|") == ppo.count("|") == reward.count("|")
    assert "| no |" in ppo
    assert "| yes |" in reward


def test_the_table_goes_to_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "PAGE", tmp_path / "planning.md")
    plans.PAGE.write_text("a\n<!-- plans -->\nold\n<!-- end -->\nb\n<!-- end -->\n")
    rows = [plans.row(PYTHIA, "sft", 1)]
    plans.publish(rows)
    assert plans.PAGE.read_text() == "\n".join(
        ["a", "<!-- plans -->", *plans.table(rows), "<!-- end -->", "b", "<!-- end -->", ""]
    )
