"""benchmarks.dpo, kto, reward and growth in small: both sides run, agree, and what they print is what they measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import dpo, growth, kto, preference_work, reward

TINY = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocabulary": 64, "prompt": 30, "response": 8, "responses": 3, "prompts": 2,
}  # fmt: skip


@pytest.mark.parametrize("module", [dpo, *(pytest.param(one, marks=pytest.mark.slow) for one in (kto, reward))])
def test_a_row_for_each_piece_of_work(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    work = [("tiny", 2.0, 2, TINY, {"checkpointing": True}), ("absent", None, 2, {"weights": "nobody"}, {})]
    monkeypatch.setattr(module, "WORK", work)
    monkeypatch.setattr(module, "RESULT", tmp_path / "measured.json")
    monkeypatch.setattr("sys.argv", ["measured"])
    module.main()
    [row] = json.loads((tmp_path / "measured.json").read_text())["rows"]
    assert row["work"].endswith(": tiny")
    assert row["loss_differs_by"] < 1e-4
    assert row["rounds"] == 2
    assert all(side["utilization"] > 0 and side["peak_mib"] > 0 for side in row["sides"].values())
    shown = capsys.readouterr().out
    assert f"{row['ratio']} times" in shown
    assert "absent: nobody is not in RLHF_TEST_MODELS, left out" in shown


def test_rows_are_every_pair_of_responses_to_a_prompt() -> None:
    rows = preference_work.rows(TINY, 64, 1, "dpo")
    assert len(rows) == preference_work.rows_of(TINY, "dpo") == 6
    assert rows[0]["prompt_ids"] == rows[1]["prompt_ids"] == rows[2]["prompt_ids"] != rows[3]["prompt_ids"]
    assert rows[0]["chosen_ids"] == rows[1]["chosen_ids"]
    assert rows[0]["rejected_ids"] == rows[2]["chosen_ids"]
    whole = preference_work.rows(TINY, 64, 1, "reward")
    assert whole[0]["chosen_ids"] == rows[0]["prompt_ids"] + rows[0]["chosen_ids"]


def test_growth_is_drawn(tmp_path: Path) -> None:
    points = [
        {"grows": name, **growth.POINT, name: value} | {side: {"cpu": 0.1, "mib": 5.0} for side in growth.COLORS}
        for name, (_, values) in growth.SERIES.items()
        for value in values
    ]
    growth.draw(points, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_growth_draws_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series = {"prompt": ("tokens", (16, 32)), "responses": ("responses", (2, 3)), "prompts": ("prompts", (1, 2))}
    small = {name: TINY[name] for name in growth.MODEL}
    monkeypatch.setattr(growth, "SERIES", series)
    monkeypatch.setattr(growth, "MODEL", small)
    monkeypatch.setattr(growth, "POINT", {"prompt": 16, "response": 8, "responses": 2, "prompts": 1})
    monkeypatch.setattr(growth, "RESULT", tmp_path / "growth.json")
    monkeypatch.setattr(growth, "FIGURE", tmp_path / "growth.png")
    monkeypatch.setattr("sys.argv", ["growth", "--rounds", "1"])
    growth.main()
    rows = json.loads((tmp_path / "growth.json").read_text())["rows"]
    assert [(row["grows"], row[row["grows"]]) for row in rows] == [
        (name, value) for name, (_, values) in series.items() for value in values
    ]
    assert all(row[side]["cpu"] > 0 for row in rows for side in growth.COLORS)
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
