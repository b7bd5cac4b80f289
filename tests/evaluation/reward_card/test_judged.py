import json
from pathlib import Path

from rlhf.evaluation.reward_card.judged import agree, write

ROWS = [{"prompt": f"{number}?", "chosen": "good", "rejected": "a bad one"} for number in range(4)]


def test_pairs_without_a_verdict_are_counted_and_left_out(tmp_path: Path) -> None:
    found, by = agree(ROWS, lambda prompts, firsts, seconds: [1.0, None, 0.0, 1.0], 0)
    assert (found.pairs, found.unusable, found.ties) == (3, 1, 0.0)
    assert by["length difference"][0].accuracy.count == 3
    write("m", found, by, {"judge/asked": 8.0}, tmp_path)
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["agreement"]["kappa"] == found.kappa.mean
    assert record["cost"] == {"judge/asked": 8.0}
    assert "1 more without a verdict" in (tmp_path / "report.md").read_text()
