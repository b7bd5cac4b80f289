import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rlhf.errors import ConfigError
from rlhf.evaluation.reporting.curves import panels, write
from rlhf.stages import execute
from tests.conftest import composed, manifest, tiny_overrides


def test_a_training_stage_draws_its_metrics_and_writes_them_as_csv(tmp_path: Path) -> None:
    execute(composed(*tiny_overrides("base", tmp_path), "curves=[svg,csv]"), tmp_path / "almanac" / "base")
    place = tmp_path / "almanac" / "base"
    root = ElementTree.fromstring((place / "curves.svg").read_text())
    text = " ".join(root.itertext())
    assert "loss" in text
    assert "train/loss" in text
    assert "reward" not in text
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    with (place / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{name: float(value) for name, value in row.items() if value} for row in rows] == [
        {name: float(value) for name, value in line.items()} for line in lines
    ]
    assert {"curves.svg", "metrics.csv"} < set(json.loads((place / "run.json").read_text())["files"])


def test_values_that_are_not_finite_and_empty_panels_are_left_out() -> None:
    lines = [{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": float("nan"), "objective/kl": float("inf")}]
    assert panels(lines) == {"loss": {"train/loss": ([1], [2.0])}}


def test_rounds_of_online_dpo_and_the_pretraining_mix_have_panels() -> None:
    rounds = [{"step": 1, "score": 0.5, "gold": 1.0, "win_rate": 0.6, "win_rate/previous": 0.6, "kl": 0.2, "pairs": 9}]
    assert {title: list(of) for title, of in panels(rounds).items()} == {
        "reward": ["score", "gold"],
        "win rate": ["win_rate", "win_rate/previous"],
        "KL to the reference (nats per response)": ["kl"],
    }
    assert list(panels([{"step": 1, "loss/ptx_avg": 2.0}])) == ["pretraining loss"]


def test_shadows_share_a_panel_without_their_deviations() -> None:
    lines = [{"step": 1, "shadow/b": 2.0, "shadow/b_std": 1.0, "shadow/a": 3.0, "shadow/a_std": 1.0}]
    assert panels(lines) == {"shadow rewards": {"shadow/a": ([1], [3.0]), "shadow/b": ([1], [2.0])}}
    assert list(panels([{"step": 1, "shadow/b_std": 2.0, "shadow/b_std_std": 1.0}])["shadow rewards"]) == [
        "shadow/b_std"
    ]


def test_a_fall_has_a_line_and_is_named_with_its_update(tmp_path: Path) -> None:
    lines = [{"step": t, "shadow/a": -float(t), "shadow/a_std": 1.0, "objective/kl": 1.0} for t in range(9)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    drawn = []
    for update in (None, 5):
        fall = {"name": "shadow/a", "best": 0.0, "peak": 2, "update": update, "last": -8.0}
        (tmp_path / "run.json").write_text(json.dumps(manifest("ppo", falls=[fall])))
        write(tmp_path, ["svg"], "x")
        drawn.append((tmp_path / "curves.svg").read_text())
    assert ["shadow/a, fell at 5" in text for text in drawn] == [False, True]
    assert [text.count('id="curves-line2d') for text in drawn][1] > drawn[0].count('id="curves-line2d')


def test_equal_metrics_result_in_equal_bytes_and_none_in_no_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "objective/scores": 0.5, "objective/gold": 0.25}\n')
    drawn = []
    for _ in range(2):
        write(tmp_path, ["svg"], "x")
        drawn.append((tmp_path / "curves.svg").read_bytes())
    assert drawn[0] == drawn[1]
    assert not (tmp_path / "metrics.csv").exists()
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", ["svg", "csv"], "x")
    assert not list((tmp_path / "empty").iterdir())


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ConfigError, match="curves must be a list of svg, csv, html, got .'png'."):
        composed("stage=sft", "curves=[png]")
