"""Every experiment runs, all of its stages, for two steps: with a tiny model, on fixtures laid out as its data are."""

import json
from pathlib import Path

import pytest

from rlhf.config import PROGRESSION
from rlhf.runs.run import Run
from rlhf.stages import execute
from rlhf.storage.paths import bundled
from tests.conftest import FAST, composed

FIXTURES = Path(__file__).parent / "data" / "fixtures"
PRESETS: dict[str, dict[str, str]] = json.loads((FIXTURES / "presets.json").read_text(encoding="utf-8"))
OTHERS = {"ultrafeedback-zephyr": {"preferences": "ultrafeedback_h4.jsonl", "prompts": "ultrafeedback_h4.jsonl"}}
EXPERIMENTS = sorted(path.stem for path in (bundled("conf") / "experiment").glob("*.yaml"))
REAL = [name for name in EXPERIMENTS if name not in ("none", "almanac", "arithmetic", "sentiment")]


def substitutes(experiment: str, stage: str, root: Path, model: Path) -> list[str]:
    """Return overrides that replace downloads with a tiny model and fixtures."""
    data = composed(f"experiment={experiment}").data.name
    files = PRESETS[data] | OTHERS.get(experiment, {})
    # One fixture is every split, so the held-out rows are among the training rows.
    rows = [f"data.{kind}.path={FIXTURES / file}" for kind, file in files.items()]
    rows += [f"data.{kind}.{split}=null" for kind in files for split in ("validation", "test")]
    # Byte-level tokens: more of them, and PPO leaves out longer prompts. Two steps have no room for a recipe's warm-up.
    lengths = {"ppo": ["stage.max_prompt_length=320"], "compare": ["stage.max_prompt_length=64"]}
    lengths |= {name: ["stage.trainer.warmup_steps=0"] for name in ("sft", "reward", "dpo")}
    return [
        f"experiment={experiment}", f"stage={stage}", f"checkpoints={root}", "hardware=cpu", f"model.path={model}",
        "model.dtype=float32", "data.holdout=0.3", *rows, *FAST[stage], *lengths.get(stage, []),
    ]  # fmt: skip


@pytest.mark.parametrize("experiment", REAL)
def test_an_experiment_runs_from_sft_to_compare(experiment: str, chain: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.symlink_to(chain / "almanac" / "base" / "model")
    for stage in PROGRESSION[1:]:
        settings = composed(*substitutes(experiment, stage, tmp_path, model))
        execute(settings, tmp_path / settings.name / stage)
    compared = Run.open(tmp_path / experiment / "compare")
    assert {"sft", "dpo", "ppo", "reward"} <= set(compared.manifest["parents"])
    assert "win_rate/reward/ppo" in compared.manifest["metrics"]
