import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.evaluation.reward_card import report
from rlhf.evaluation.reward_card.card import Card
from rlhf.evaluation.reward_card.probes import Probe

Make = Callable[..., Card]


def good(text: str) -> float:
    return 2.0 * ("good" in text)


def test_all_files_are_written(card: Make, tmp_path: Path) -> None:
    report.write(card(good), tmp_path)
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["accuracy"]["mean"] == 21 / 24
    assert found["baselines"]["longer wins"]["beaten"] is True
    assert found["baselines"]["TF-IDF"]["beaten"] is False
    assert found["parts"]["margin"]["0"]["count"] == 6
    assert found["calibration"]["temperature"] > 0
    assert sum(part["count"] for part in found["calibration"]["bins"]) == 24
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "reliability.png", "accuracy.png", "length.png", "scores.png",
    }  # fmt: skip


def test_the_report_has_warnings_and_escapes_names(card: Make, tmp_path: Path) -> None:
    report.write(card(good), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "**Warning**: the reward model does not beat TF-IDF" in text
    assert "# Report card of my&#124;model" in text
    assert "<b>" not in text
    assert "| reward model | 0.875" in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (tmp_path / line.split("(")[1].rstrip(")")).is_file()


def test_the_report_is_apart_from_style_and_by_source(card: Make, tmp_path: Path) -> None:
    made = card(good)
    report.write(made, tmp_path)
    found, text = json.loads((tmp_path / "metrics.json").read_text()), (tmp_path / "report.md").read_text()
    assert found["style"] == {
        "rows": 12, "accuracy over pairs": made.style.accuracy._asdict(), "accuracy at equal style": None,
    }  # fmt: skip
    assert found["style"]["accuracy over pairs"]["mean"] == 21 / 24
    assert found["style_by"]["source"]["<b>s0|$x$</b>"]["rows"] == 12
    assert "| accuracy at equal style | too few: 12 of 50 |" in text
    assert "| | accuracy | pairs | accuracy at equal style |" in text.replace("|  |", "| |")
    assert "test/equal_style" not in report.numbers(made)


def test_rewardbench_reads_it(card: Make) -> None:
    """As its scripts/run_rm.py: accuracies by subset next to three names; columns of scores with results of 0 or 1."""
    made = card(good)
    board, rows = report.leaderboard(made), report.scores(made)
    assert {name: board.pop(name) for name in ("model", "model_type", "chat_template")} == {
        "model": "my|model", "model_type": "Seq. Classifier", "chat_template": "tokenizer",
    }  # fmt: skip
    by_hand: dict[str, list[bool]] = {}
    for i, subset in enumerate(rows["subset"]):
        by_hand.setdefault(subset, []).append(rows["scores_chosen"][i] > rows["scores_rejected"][i])
    assert board == {name: sum(values) / len(values) for name, values in by_hand.items()}
    columns = ("id", "subset", "text_chosen", "text_rejected", "scores_chosen", "scores_rejected", "results", "prompt")
    assert {len(rows[name]) for name in columns} == {24}
    assert rows["results"] == [int(a > b) for a, b in zip(rows["scores_chosen"], rows["scores_rejected"], strict=True)]


def test_a_tie_is_an_error_for_rewardbench(card: Make) -> None:
    made = card(lambda text: 1.0)
    assert made.accuracy.mean == 0.5
    assert set(report.scores(made)["results"]) == {0}
    assert made.notes == ["24 of 24 pairs have equal scores and count half"]


def test_the_terminal_shows_names_as_text(card: Make, capsys: pytest.CaptureFixture) -> None:
    report.show(card(good))
    shown = capsys.readouterr().out
    assert "<b>s0|$x$</b>" in shown
    assert "warning: the reward model does not beat TF-IDF" in shown.replace("\n", " ")


def test_numbers_for_run_json_are_numbers(card: Make) -> None:
    found = report.numbers(card(good))
    assert found["test/accuracy"] == 21 / 24
    assert found["test/lead/longer wins"] > 0
    assert all(isinstance(value, float) for value in found.values())


def test_labels_name_metric_and_unit(card: Make) -> None:
    made = card(good)
    made.probes = {"eos_removed": Probe(None, None, 3)}
    shown = {title: [line[0] for line in lines] for title, _, lines in report.tables(made)}
    assert "Corruption test: the score should fall" in shown
    assert "EOS removed" in shown["Corruption test: the score should fall"]
    assert "Accuracy by length difference, chosen - rejected (characters)" in shown
    details = dict(report.details(made))
    assert details["ECE (expected calibration error)"] == f"{made.calibration.error:.3f}"
    assert details["ECE of a calibrated model on these pairs"] == f"{made.calibration.floor:.3f}"
    assert report.numbers(made)["test/ece_floor"] == made.calibration.floor > 0
