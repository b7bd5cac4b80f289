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


def test_a_part_has_no_score_and_the_report_explains_it(tmp_path: Path) -> None:
    rows = items("chat")
    found = numbers.measure(STAGE, *rows, 0)
    assert "objective" not in numbers.metrics(found)
    numbers.write("m", STAGE, found, *rows, tmp_path)
    assert "Parts of the benchmark are missing, so it has no score." in (tmp_path / "report.md").read_text()
