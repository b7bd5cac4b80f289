from dataclasses import fields
from pathlib import Path

import pytest

from rlhf.cli import main
from rlhf.cli.help import command_help, comments, composed_values, help_text
from rlhf.config import STAGES
from rlhf.storage.paths import bundled
from tests.cli.test_main import command


def test_help_fits_80_columns_and_names_every_group(tmp_path: Path) -> None:
    result = command("--help", cwd=tmp_path)
    assert result.returncode == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    for group in ("stage", "model", "data", "adapter", "hardware", "judge", "tracker", "sweep", "launcher"):
        assert f"\n  {group}: " in result.stdout
    assert set(STAGES) <= set(result.stdout.replace(",", " ").split())
    assert "\n  resume=false\n      true: continue an interrupted run\n" in result.stdout
    assert result.stderr.strip() == "False"


def test_the_help_without_hydra_shows_the_composed_values() -> None:
    main.register()
    conf = bundled("conf")
    assert help_text([]) == command_help(conf, composed_values(conf, []))
    assert "\n  name=hh\n" in help_text(["experiment=hh"])


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_the_help_of_a_stage_is_each_of_its_settings_with_its_comment(stage: str) -> None:
    main.register()
    shown = help_text([f"stage={stage}"])
    own = [f"stage.{field.name}" for field in fields(STAGES[stage]) if field.name not in ("name", "progression")]
    for key in own:
        assert f"\n  {key}=" in shown or f"\n  {key}:" in shown
    if stage == "dpo":
        assert "  stage.beta=0.1\n      by loss: β, the KL coefficient; the paper's default" in shown
        assert "stage.trainer.learning_rate=0.0001" in shown  # the recipe's
        assert "hardware" not in shown
        assert "  stage.trainer:\n      passed to trl.DPOConfig; further keys with +stage.trainer.key=value" in shown


def test_keys_are_dotted_and_have_their_comments(tmp_path: Path) -> None:
    text = """\
defaults:
  - _self_
beta: 0.1 # the coefficient
trainer: # passed on
  max_length: null # tokens # or none
  warmup_steps: 0.1
loss: [sigmoid]
hydra:
  output_subdir: null # not ours
"""
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    assert dict(comments(tmp_path / "a.yaml")) == {
        "beta": "the coefficient", "trainer": "passed on", "trainer.max_length": "tokens # or none",
        "trainer.warmup_steps": "", "loss": "",
    }  # fmt: skip


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_setting_of_a_stage_has_a_comment_or_a_plain_name(stage: str) -> None:
    """A key that is read out of the YAML twice, or not at all, would be missing from the help."""
    keys = [key for key, _ in comments(bundled("conf") / "stage" / f"{stage}.yaml")]
    assert len(keys) == len(set(keys))
    assert set(keys) >= {field.name for field in fields(STAGES[stage])}
