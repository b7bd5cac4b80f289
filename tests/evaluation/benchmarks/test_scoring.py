from pathlib import Path

import numpy as np
import pytest

from rlhf.errors import DataError, TrainingError
from rlhf.evaluation.benchmarks import scoring
from rlhf.evaluation.benchmarks.items import Item

ITEMS = [Item(str(n), "s", f"q{n}", ["x" * (n + 1), "", "xx"], right=2) for n in range(5)]


def lengths(prompts: list[str], texts: list[str]) -> list[float]:
    return [float(len(text)) for text in texts]


def test_an_interrupted_run_continues_after_the_last_saved_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(scoring, "PART", 4)  # two items
    asked: list[str] = []

    def reward(prompts: list[str], texts: list[str]) -> list[float]:
        if len(asked) == 2 and "q2" in prompts:
            asked.append("killed")
            raise KeyboardInterrupt
        asked.extend(dict.fromkeys(prompts))
        return lengths(prompts, texts)

    kept = tmp_path / "scores.json"
    with pytest.raises(KeyboardInterrupt):
        scoring.scored(ITEMS, scoring.by_reward(reward), kept)
    found = scoring.scored(ITEMS, scoring.by_reward(reward), kept)
    assert asked == ["q0", "q1", "killed", "q2", "q3", "q4"]
    assert np.array(found).tolist() == [[n + 1, 0, 2] for n in range(5)]
    assert "evaluate_reward 4/5  12 responses" in capsys.readouterr().out


def test_a_judge_that_compares_reads_pairs_only(tmp_path: Path) -> None:
    pairs = [Item(str(n), "s", f"q{n}", ["a", "b"]) for n in range(3)]
    verdicts = {"q0": 1.0, "q1": 0.25, "q2": None}
    score = scoring.by_preference(lambda prompts, firsts, seconds: [verdicts[prompt] for prompt in prompts])
    assert np.array(scoring.scored(pairs, score, tmp_path / "s.json")).tolist() == [[1, 0], [0.25, 0.75], [0, 1]]
    undecided = [item._replace(tie=tie) for item, tie in zip(pairs, (0.0, 0.5, 1.0), strict=True)]
    halves = scoring.by_preference(lambda prompts, firsts, seconds: [0.5] * len(prompts))
    assert halves(undecided) == [[0, 1], [0.5, 0.5], [0, 1]]  # of half a point, an error, and JudgeBench's
    with pytest.raises(DataError, match=r"^row '0' of the benchmark has 3 responses, and stage\.rubric compares two"):
        scoring.scored(ITEMS, score, tmp_path / "t.json")


def test_a_score_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    unknown = scoring.by_reward(lambda prompts, texts: [float("nan")] * len(texts))
    with pytest.raises(TrainingError, match="nan"):
        scoring.scored(ITEMS, unknown, tmp_path / "s.json")
