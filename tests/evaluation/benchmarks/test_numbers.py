import json
from pathlib import Path

import numpy as np
import pytest

from rlhf.evaluation.benchmarks import numbers
from rlhf.evaluation.benchmarks.items import Item
from tests.conftest import composed

STAGE = composed("stage=evaluate_reward", "stage.benchmark=rm_bench", "stage.bootstrap=20").stage


def items(*domains: str) -> tuple[list[Item], list[np.ndarray]]:
    found = [Item(str(n), domain, "q", [*"abcdef"], right=3) for n, domain in enumerate(domains)]
    return found, [np.array([2.0, 2, 2, 1, 1, 1])] * len(found)


def test_files_and_metrics(tmp_path: Path) -> None:
    rows = items("chat", "math", "code", "safety")
    found = numbers.measure(STAGE, *rows, 0)
    assert numbers.metrics(found)["objective"] == numbers.metrics(found)["benchmark/score"] == 1
    numbers.write("my|model", STAGE, found, *rows, tmp_path)
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert (record["benchmark"], record["path"], record["items"]) == ("rm_bench", "THU-KEG/RM-Bench", 4)
    assert record["numbers"]["chat hard"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "rows": 1}
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert lines[2] == {"id": "2", "subset": "code", "right": 3, "scores": [2, 2, 2, 1, 1, 1]}
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("# rm&#95;bench: my&#124;model\n") or report.startswith("# rm_bench: my&#124;model\n")
    assert "| score | 1.000 | &#91;1.000, 1.000&#93; |  |" in report
    assert "has no score" not in report
    assert "## Pairs, and apart from style" in report
    assert record["style"]["accuracy over pairs"]["mean"] == 1
    assert record["style"]["accuracy at equal style"] is None
    assert "| accuracy at equal style | too few: 4 of 50 |" in report
    assert list(record["by"]) == list(record["style_by"]) == ["subset"]  # one turn, and no language
    assert record["style_by"]["subset"]["code"]["rows"] == 1
    assert "| code | 1.000 | &#91;0.207, 1.000&#93; | 1 | too few: 1 of 50 |" in report


def test_a_part_has_no_score_and_the_report_explains_it(tmp_path: Path) -> None:
    rows = items("chat")
    found = numbers.measure(STAGE, *rows, 0)
    assert "objective" not in numbers.metrics(found)
    numbers.write("m", STAGE, found, *rows, tmp_path)
    assert "Parts of the benchmark are missing, so it has no score." in (tmp_path / "report.md").read_text()


def test_pairs_by_language_and_turns() -> None:
    talk = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    rows, scores = items("chat", "chat", "math")
    rows = [rows[0]._replace(language="Polish"), rows[1]._replace(language="Thai", prompt=talk), rows[2]]
    by = numbers.measure(STAGE, rows, [scores[0], -scores[1], scores[2]], 0).by
    assert {part.name: part.accuracy[::3] for part in by["language"]} == {"Polish": (1.0, 1), "Thai": (0.0, 1)}
    assert {part.name: part.accuracy[::3] for part in by["turns"]} == {"1": (1.0, 2), "2": (0.0, 1)}


def test_parts_are_apart_from_style_with_their_intervals() -> None:
    """Of 60 rows of each subset, 54 of chat and 30 of math are right, in responses of equal style.

    The penalty is ½ w², so that c = σ(w) of chat has 54 (1 - c) - 6 c = w.
    """
    rows, scores = items(*(["chat", "math"] * 60))
    right = [number // 2 < (54 if number % 2 == 0 else 30) for number in range(120)]
    signed = [own if one else -own for own, one in zip(scores, right, strict=True)]
    found = numbers.measure(STAGE, rows, signed, 0)
    chat, math = (found.styled["subset"][name] for name in ("chat", "math"))
    assert [part.accuracy.mean for part in found.by["subset"]] == [0.9, 0.5]
    assert [chat.accuracy.mean, math.accuracy.mean] == pytest.approx([0.9, 0.5])
    equal = chat.controlled.mean
    assert chat.controlled.low < equal < chat.controlled.high
    assert 54 - 60 * equal == pytest.approx(np.log(equal / (1 - equal)), abs=1e-6)
    assert math.controlled.mean == pytest.approx(0.5)
    assert numbers.metrics(found)["style/controlled"] == found.style.controlled.mean


def test_rare_values_are_combined() -> None:
    names = [f"l{number}" for number in range(25)] + ["l0"]
    found = numbers.parts([*names, None], np.arange(27) % 2)
    assert len(found) == 21
    assert (found[0].name, found[0].accuracy.count) == ("l0", 2)
    assert (found[-1].name, found[-1].accuracy.count) == ("5 others", 5)
