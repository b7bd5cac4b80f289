import json
from pathlib import Path

from rlhf.publishing.figure import draw, points, running


def test_points_are_the_updates_that_have_both(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "objective/kl": 0.0, "objective/scores": 1.0},
        {"step": 2, "objective/kl": 0.5, "objective/scores": 2.0, "objective/gold": 0.5},
        {"step": 3, "objective/kl": 0.7, "objective/scores": float("nan")},
        {"step": 3, "loss": 0.1},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert points(path) == {"objective/scores": [(0.0, 1.0), (0.5, 2.0)], "objective/gold": [(0.5, 0.5)]}
    assert points(tmp_path / "nothing") == {}


def test_the_running_mean_by_hand() -> None:
    assert running([1.0, 3.0, 5.0, 7.0], window=2) == [1.0, 2.0, 4.0, 6.0]


def test_the_same_points_are_the_same_bytes(tmp_path: Path) -> None:
    series = {"objective/scores": [(0.0, 1.0), (1.0, 2.0)], "objective/gold": [(0.0, 1.0), (1.0, 0.5)]}
    draw(series, tmp_path / "a" / "one.png")
    draw(series, tmp_path / "two.png")
    assert (tmp_path / "a" / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "two.png").read_bytes().startswith(b"\x89PNG")
