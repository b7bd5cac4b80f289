"""The page of stage=overoptimize, from runs whose gold reward follows a known law."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rlhf.config import Settings
from rlhf.errors import RunError
from rlhf.evaluation.comparison.frontier import Law
from rlhf.stages import execute
from rlhf.storage.json_files import write_json
from tests.conftest import manifest

TRUE = Law(alpha=1.6, beta=1.0, start=1.3)  # peaks at exp(2 (1.6 - 1)) = 3.32


def trained(place: Path, kls: np.ndarray, noise: float, seed: int = 0) -> None:
    generator = np.random.default_rng(seed)
    place.mkdir(parents=True)
    write_json(place / "run.json", manifest("ppo", metrics={"gold": 1.5, "kl": float(kls[-1])}, weights=place.name))
    lines = [
        {
            "step": n,
            "objective/kl": kl,
            "objective/scores": 0.0,
            "objective/gold": TRUE(kl) + generator.normal(0, noise),
        }
        for n, kl in enumerate(kls.tolist(), 1)
    ]
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def sampled(place: Path) -> None:
    generator = np.random.default_rng(1)
    place.mkdir(parents=True)
    write_json(place / "run.json", manifest("sample", metrics={"responses": 1.0}, weights=None))
    rows = [{"prompt": "p", "responses": ["a"] * 8, "scores": scores, "gold": scores}
            for scores in generator.normal(size=(12, 8)).tolist()]  # fmt: skip
    (place / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_page_recovers_the_law_proposes_its_peak_and_compares_the_check(
    settings: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    own = settings("overoptimize", "stage.pairs=[8,16]", "++stage.sizes={same: []}", "stage.seeds=[1]")
    own.stage.sizes.pop("small", None)
    directory = tmp_path / "overoptimize"
    with pytest.raises(RunError, match=r"has no run with a gold reward over KL"):
        execute(own, directory / "report")
    chain = directory / "seed-1"
    trained(chain / "rl-same-16", np.linspace(0, 12, 60), 0.02)
    trained(chain / "rl-same-8", np.linspace(0, 1, 60), 0.02)
    sampled(chain / "best_of_n-same-16")
    metrics = execute(own, directory / "report")
    assert metrics["laws"] == 3
    assert metrics["kl_target"] == pytest.approx(math.exp(1.2), rel=0.1)
    assert "check/gold" not in metrics
    trained(chain / "check", np.full(30, 3.3), 0.02, 2)
    metrics = execute(own, directory / "report")
    assert metrics["check/gold"] == pytest.approx(metrics["check/predicted"], abs=0.02)
    text = (directory / "report" / "overoptimize.md").read_text()
    assert "beyond the data" in next(line for line in text.splitlines() if line.startswith("| same-8 | – | RL |"))
    found = json.loads((directory / "report" / "overoptimize.json").read_text())
    [law] = [one["law"] for one in found["laws"] if one["model"] == "same-16" and one["method"] == "RL"]
    assert abs(law["alpha"]["mean"] - 1.6) < law["alpha"]["half"]
    low, high = law["peak_kl_interval"]
    assert low < math.exp(1.2) < high
    assert f"stage.kl_target={metrics['kl_target']:.3g}" in capsys.readouterr().out
