"""The page of a ladder: ranks, tests, costs, missing runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import Settings
from rlhf.errors import RunError
from rlhf.stages import execute
from rlhf.storage.json_files import write_json
from tests.conftest import manifest

METHODS = "stage.methods={a: ['stage=dpo'], b: ['stage=dpo','stage.beta=0.3'], c: ['stage=dpo','stage.beta=0.9']}"
OTHERS = [
    f"stage.methods.{name}=null"
    for name in ("kto", "raft", "dpo", "ipo", "ppo", "rloo", "grpo", "dr_grpo", "reinforce_pp")
]


def finished(directory: Path, seed: int, title: str, gold: float) -> None:
    metrics = {"gold": gold, "start/gold": 1.0, "win_rate": 0.5, "kl": 1.0, "tokens": 1000}
    run = manifest("dpo", metrics=metrics, weights=f"{title}{seed}", command=f"python -m rlhf stage=dpo name={title}")
    (place := directory / f"seed-{seed}" / title).mkdir(parents=True)
    write_json(place / "run.json", run)


def test_the_page_ranks_tests_and_names_what_is_missing(
    settings: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    own = settings("ladder", METHODS.replace("stage.methods", "++stage.methods", 1), *OTHERS, "stage.seeds=[1,2,3]")
    directory = tmp_path / "ladder"
    with pytest.raises(RunError, match=r"has no runs with a common metric"):
        execute(own, directory / "report")
    for seed in (1, 2, 3):
        finished(directory, seed, "a", 2.0 + seed)
        finished(directory, seed, "b", 2.5 + seed + 0.01 * seed)
    finished(directory, 1, "c", 0.5)
    metrics = execute(own, directory / "report")
    assert metrics["jobs"] == 7
    assert metrics["unfinished"] == 2
    text = (directory / "report" / "ladder.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith(("| a ", "| b ", "| c "))]
    assert [line.split(" | ")[0] for line in lines] == ["| b", "| a", "| c"]
    assert lines[0].split(" | ")[1:3] == ["3", "4.520 ±2.509"]  # mean of 3.51, 4.52 and 5.53; t(0.975, 2) · 1.01 / √3
    assert lines[0].split(" | ")[5] == "0.520 ±0.025"
    assert lines[1].split(" | ")[5] == "–"  # the baseline
    assert "The start has gold 1.000 ±0.000" in text
    assert text.count("python -m rlhf stage=dpo name=") == 3
    assert f"- {directory}/seed-2/c" in text
    assert "b  gold 4.520 ±2.509  p " in capsys.readouterr().out
