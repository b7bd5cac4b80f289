"""Labels in small: two rounds of both ways on the tiny chain, all stages in this process."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import labels
from rlhf.cli import main
from tests.conftest import FAST, TINY

SMALL = {"stage=reward": [*FAST["reward"], "stage.trainer.max_length=256"], "stage=sample": ["stage.samples=3"]}


def brief(prompts: list, completions: list[str]) -> list[float]:
    """Return a gold reward that rarely ties on gibberish."""
    return [-float(len(text)) for text in completions]


@pytest.mark.parametrize("members", [1, 2])
def test_both_ways_buy_labels(
    chain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    members: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    labels.FOLDER.mkdir(parents=True)
    for name in ("base", "sft"):
        (labels.FOLDER / name).symlink_to(chain / "almanac" / name)
    commands = []

    def run(command: list[str], check: bool) -> None:
        commands.append(command[3:])
        own = [item for item in command[3:] if not item.startswith("stage.max_")]
        monkeypatch.setattr("sys.argv", ["rlhf", *own, *SMALL.get(command[3], []), *TINY, "hardware=cpu"])
        main.main()

    monkeypatch.setattr(labels, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(labels, "RESULT", tmp_path / "labels.json")
    monkeypatch.setattr(labels, "FIGURE", tmp_path / "labels.svg")
    monkeypatch.setattr(labels, "GOLD", ["judge=function", "judge.function=tests.benchmarks.test_labels:brief"])
    monkeypatch.setattr(labels, "SAMPLED", ["stage.max_response_length=6"])
    arguments = ["x", "--seeds", "3", "--labels", "8", "--rounds", "2", "--members", str(members)]
    for _ in range(2):  # the second time, all runs are finished
        monkeypatch.setattr("sys.argv", arguments)
        labels.main()
    rows = json.loads((tmp_path / "labels.json").read_text())["rows"]
    assert [(row["way"], row["labels"]) for row in rows] == [
        (way, count) for count in (8, 16) for way in ("random", "disagreement")
    ]
    assert rows[0]["accuracy"] == rows[1]["accuracy"]  # the first round is shared
    assert all(0 < row["pairs"] <= row["labels"] for row in rows)
    stages = [command[0] for command in commands]
    assert {stage: stages.count(f"stage={stage}") for stage in ("sample", "label", "reward")} == {
        "sample": 4, "label": 5, "reward": 3,
    }  # fmt: skip
    first = f"checkpoints/labels/seed-3/8-labels-{members}-members/round-1"
    [picked] = [command for command in commands if "stage.pick=disagreement" in command]
    by = ",".join([f"{first}/reward", *[f"{first}/reward/member-1"] * (members - 1)])
    assert f"stage.pick_by=[{by}]" in picked
    home = Path(first).parent
    lines = {
        name: (home / name / "pairs" / "train.jsonl").read_text().split("\n")[:-1]
        for name in ("round-1", "round-2-random", "round-2-disagreement")
    }
    for way in ("random", "disagreement"):  # all pairs bought so far
        assert lines[f"round-2-{way}"][: len(lines["round-1"])] == lines["round-1"]
    assert lines["round-2-random"] != lines["round-2-disagreement"]
    assert "| 16 | 1 |" in capsys.readouterr().out
    assert (tmp_path / "labels.svg").read_text().startswith("<svg")


def test_the_table_by_hand() -> None:
    """Paired by seed: the gains are 0.1 and 0.1, the accuracies of each way vary."""
    rows = [
        {"seed": seed, "way": way, "labels": 100, "pairs": 90 + seed, "accuracy": 0.6 + 0.1 * seed + gain}
        for seed in (1, 0)
        for way, gain in (("disagreement", 0.1), ("random", 0.0))
    ]
    [line] = labels.table(rows)[2:]
    assert line == "| 100 | 2 | 0.650 ±0.635 (90) | 0.750 ±0.635 (90) | 0.100 ±0.000 |"
