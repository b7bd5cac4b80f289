"""Rows, ranks and files of a leaderboard of made-up runs."""

import csv
import json
from pathlib import Path

import pytest

from rlhf.errors import LineageError
from rlhf.evaluation.sweeps.jobs import FAILED, collect
from rlhf.evaluation.sweeps.leaderboard import board, caption, publishing, show, write
from tests.evaluation.sweeps.test_jobs import member

HOSTILE = "[bold]no[/bold] <script>alert(1)</script> | a\nb"


@pytest.fixture
def sweeps(tmp_path: Path) -> Path:
    """Return a folder with DPO jobs for β 0.1 and 0.5 and two seeds, one of them failed, and one PPO job for κ 0.2."""
    dpo, ppo = tmp_path / "dpo", tmp_path / "ppo"
    for seed, gold in ((1, 2.0), (2, 2.2)):
        member(dpo, seed=seed, metrics={"gold": gold, "kl": 1.5, "eval/rewards/accuracies": 0.7}, stage__beta="0.1")
    member(dpo, seed=1, metrics={"gold": 1.8, "kl": 0.5, "eval/rewards/accuracies": 0.8}, stage__beta="0.5")
    member(dpo, seed=2, status=FAILED, reason=HOSTILE, stage__beta="0.5")
    member(ppo, "ppo", metrics={"gold": 1.7, "kl": 1.0, "objective/rlhf_reward": 3.0}, stage__kl_coef="0.2")
    return tmp_path


def test_a_row_is_a_configuration_over_its_seeds(sweeps: Path) -> None:
    found = board(collect([str(sweeps / "dpo")]), "gold")
    assert [row.knobs for row in found.rows] == [{"stage.beta": "0.1"}, {"stage.beta": "0.5"}]
    first, second = (row.values["gold"] for row in found.rows)
    assert first.mean == pytest.approx(2.1)
    assert first.deviation == pytest.approx(0.1 * 2**0.5)  # for two values: |a - b| / √2
    assert (first.count, second.count, second.deviation) == (2, 1, None)
    assert [job.reason for job in found.failed] == [HOSTILE]
    assert publishing(found) == f"python -m rlhf stage=publish stage.run={sweeps}/dpo/stage.beta-0.1_seed-2"


def test_rows_are_ranked_by_the_objective(sweeps: Path) -> None:
    def order(paths: list[str], objective: object) -> list[str]:
        return [row.title for row in board(collect([str(sweeps / path) for path in paths]), objective).rows]

    low, high, ppo = "dpo stage.beta=0.1", "dpo stage.beta=0.5", "ppo stage.kl_coef=0.2"
    assert order(["dpo"], None) == [high, low]  # the stage's usual one: implicit accuracy
    assert order(["dpo"], "kl") == [high, low]  # the lower the better
    assert order(["dpo", "ppo"], None) == [low, high, ppo]  # the common one: gold
    # PPO has less gold than β = 0.5 at more KL; the others do not dominate each other.
    assert order(["ppo", "dpo"], ["kl", "gold"]) == [high, low, ppo]
    with pytest.raises(LineageError, match="objective=reward_accuracy was not measured by .*ppo"):
        order(["dpo", "ppo"], "reward_accuracy")


def test_stages_without_a_metric_in_common_are_refused(sweeps: Path) -> None:
    member(sweeps / "reward", "reward", metrics={"test/accuracy": 0.9})
    with pytest.raises(LineageError, match="no metric is common to runs of dpo, ppo, reward"):
        board(collect([str(sweeps)]), None)


def test_runs_that_differ_in_other_settings_have_separate_rows(tmp_path: Path) -> None:
    for name, rate in (("a", 1e-4), ("b", 1e-3)):
        member(
            tmp_path / name, metrics={"gold": rate}, content={"stage.trainer.learning_rate": rate}, stage__beta="0.1"
        )
    found = board(collect([str(tmp_path)]), "gold")
    assert [row.knobs["stage.trainer.learning_rate"] for row in found.rows] == ["0.001", "0.0001"]


def test_the_files_agree_and_messages_of_jobs_are_escaped(
    sweeps: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    found = board(collect([str(sweeps / "dpo")]), "gold")
    out = tmp_path / "out"
    out.mkdir()
    write(found, out, [("frontier", "Reward vs. KL", "caption")])
    text = (out / "leaderboard.md").read_text()
    assert "| beta | runs | gold | KL (nats per response) | held-out accuracy |" in text
    assert "| 0.1 | 2 | 2.100 ±0.141 | 1.500 ±0.000 | 0.700 ±0.000 |" in text
    assert "<script>" not in text
    assert "![Reward vs. KL](figures/frontier.svg)" in text
    data = json.loads((out / "leaderboard.json").read_text())
    assert data["rows"][0]["metrics"]["gold"] == {"mean": 2.1, "deviation": pytest.approx(0.1414, abs=1e-4), "count": 2}
    assert data["best"] in data["publish"]
    rows = list(csv.DictReader((out / "leaderboard.csv").read_text().splitlines()))
    assert {(row["stage.beta"], row["seed"], row["status"], row["gold"]) for row in rows} >= {
        ("0.1", "1", "finished", "2.0"),
        ("0.5", "2", "failed", ""),
    }
    show(found, out)
    assert "failed: " in (printed := capsys.readouterr().out)
    assert "[bold]no[/bold]" in printed


def test_a_leaderboard_without_finished_jobs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    member(tmp_path, status=FAILED, reason="no luck")
    found = board(collect([str(tmp_path)]), "gold")
    assert (found.rows, found.best, publishing(found)) == ([], None, None)
    show(found, tmp_path)
    assert "No job has finished." in capsys.readouterr().out
    write(found, tmp_path, [])
    assert "no luck" in (tmp_path / "leaderboard.md").read_text()


def test_the_caption_names_the_temperature_of_the_kl(tmp_path: Path) -> None:
    content = {"eval_set.temperature": 0.7}
    member(tmp_path / "with", metrics={"gold": 1.0, "kl": 0.1}, content=content, stage__beta="0.1")
    member(tmp_path / "without", metrics={"eval/rewards/accuracies": 0.5}, content=content, stage__beta="0.1")
    sentence = "KL is measured on samples at temperature 0.7."
    assert caption(board(collect([str(tmp_path / "with")]), "gold")).endswith(sentence)
    assert sentence not in caption(board(collect([str(tmp_path / "without")]), None))
