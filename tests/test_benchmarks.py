"""benchmarks/: the scripts run, and what they print is what was measured."""

import gzip
import itertools
import json
import math
import os
import random
import statistics
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import ppo_memory, ppo_sentiment, progression
from rlhf import cli
from tests.conftest import FAST, TINY

STAGES = ("base", "sft", "reward", "dpo", "ppo", "compare")


def test_the_progression_over_a_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progression, "RESULT", tmp_path / "progression.json")
    own = ", ".join(f"{name}: [{', '.join(map(repr, FAST[name]))}]" for name in STAGES)
    arguments = ["progression", "--seeds", "3", "--", "hardware=cpu", *TINY, f"stage.overrides={{{own}}}"]
    monkeypatch.setattr("sys.argv", arguments)
    progression.main()
    [row] = json.loads((tmp_path / "progression.json").read_text())["seeds"]
    compared = json.loads(Path("checkpoints/benchmark/seed-3/compare/metrics.json").read_text())
    assert row["gold"]["sft"] == compared["models"]["sft"]["gold"]["mean"]
    assert row["seconds"] > 0
    shown = capsys.readouterr().out
    assert "| seed | gold base | gold sft |" in shown
    assert "seed 3: Who won the World Cup?" in shown


def test_checks_by_hand() -> None:
    row = {
        "gold": {"base": 0.0, "sft": 1.0, "dpo": 2.0, "ppo": 0.5},
        "win_rate": {"dpo": 0.65, "ppo": 0.64},
        "reward_accuracy": 0.86,
        "ceiling": 0.9,
    }
    assert list(progression.checks(row).values()) == [True, False, True, False, False]


def test_what_was_measured_is_shown_again(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["progression", "--show"])
    progression.main()
    rows = json.loads(progression.RESULT.read_text())["seeds"]
    assert "\n".join(progression.table(rows)) in capsys.readouterr().out
    assert len(rows) == 5


WORDS = "happy sad good bad love hate nice awful friend enemy laugh cry sun rain red blue"


def test_the_best_of_n_is_the_mean_over_all_subsets() -> None:
    scores = [0.3, -1.0, 2.0, 0.3, 0.7]
    for n in range(1, 6):
        subsets = [max(subset) for subset in itertools.combinations(scores, n)]
        assert ppo_sentiment.best_of(scores, n) == pytest.approx(statistics.fmean(subsets))
    assert [ppo_sentiment.best_of_kl(n) for n in (1, 2)] == pytest.approx([0, math.log(2) - 0.5])


def test_sentiment_has_a_sign() -> None:
    good, bad, none = ppo_sentiment.sentiment([""] * 3, ["They were happy friends.", "A sad, awful day.", "A table."])
    assert bad < none == 0 < good


def test_ppo_on_sentiment_runs_is_measured_and_drawn(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """With the chain's tiny model in the place of the real one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLHF_TEST_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("RLHF_TEST_DATA", str(tmp_path))
    for folder in ("models", "text"):
        (tmp_path / folder).mkdir()
    (tmp_path / "models" / "stories15M").symlink_to(chain / "almanac" / "base" / "model")
    stories = [" ".join([*random.Random(n).choices(WORDS.split(), k=20), str(n)]) for n in range(40)]
    with gzip.open(tmp_path / "text" / "tinystories_sample.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps({"text": story}) + "\n" for story in stories))
    small = {"RESULT": tmp_path / "r.json", "FIGURE": tmp_path / "f.svg", "HELD_OUT": 3, "NS": (1, 2)}
    for name, value in (small | {"SAMPLES": {"base": 4, "ppo": 2}}).items():
        monkeypatch.setattr(ppo_sentiment, name, value)

    def run(command: list[str], check: bool) -> None:
        monkeypatch.setattr("sys.argv", ["rlhf", *command[3:]])
        cli.main()

    monkeypatch.setattr(ppo_sentiment, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr("sys.argv", ["ppo_sentiment", "--seeds", "3", "4", "--", *FAST["ppo"], "hardware=cpu"])
    ppo_sentiment.main()
    found = json.loads((tmp_path / "r.json").read_text())
    assert [(one["seed"], len(one["curve"])) for one in found["seeds"]] == [(3, 2), (4, 2)]
    assert [one["n"] for one in found["best_of_n"]] == [1, 2]
    assert found["best_of_n"][0]["sentiment"]["mean"] <= found["best_of_n"][1]["sentiment"]["mean"]
    assert (tmp_path / "f.svg").read_text().count("PPO, seed") == 2
    assert "| PPO, seed 3 |" in capsys.readouterr().out


def memory_rows(one_base: int) -> list[dict]:
    peaks = {"full": 1000, "four-model LoRA": 600, "one-base LoRA": one_base}
    return [
        {"model": "stories15M", "way": way, "peak": peak * 2**20, "planned": 900 * 2**20, "seconds": 1.234}
        for way, peak in peaks.items()
    ]


def test_memory_by_hand() -> None:
    lines = ppo_memory.table(memory_rows(400))
    assert lines[2] == "| stories15M | full | 1000 | 100% | 900 | -10% | 1.23 |"
    assert lines[4] == "| stories15M | one-base LoRA | 400 | 40% | 900 | +125% | 1.23 |"
    assert list(ppo_memory.checks(memory_rows(400)).values()) == [True]
    assert list(ppo_memory.checks(memory_rows(401)).values()) == [False]


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.environ.get("RLHF_TEST_MODELS"):
        pytest.skip("RLHF_TEST_MODELS names no folder with stories15M")
    monkeypatch.setattr(ppo_memory, "RESULT", tmp_path / "ppo_memory.json")
    monkeypatch.setattr("sys.argv", ["ppo_memory", "--models", "stories15M", "--repeats", "1", "--updates", "2"])
    ppo_memory.main()
    rows = json.loads((tmp_path / "ppo_memory.json").read_text())["rows"]
    assert all(ppo_memory.checks(rows).values())
    for row in rows:
        assert row["planned"] == pytest.approx(row["peak"], rel=0.25)
