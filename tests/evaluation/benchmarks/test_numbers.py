import json
from pathlib import Path

import numpy as np

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
    assert record["by"] == {}  # one turn, and no language


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


def test_rare_values_are_combined() -> None:
    names = [f"l{number}" for number in range(25)] + ["l0"]
    found = numbers.parts([*names, None], np.arange(27) % 2)
    assert len(found) == 21
    assert (found[0].name, found[0].accuracy.count) == ("l0", 2)
    assert (found[-1].name, found[-1].accuracy.count) == ("others", 5)
