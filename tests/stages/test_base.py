import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.config import Settings
from rlhf.errors import ConfigError, ModelError
from rlhf.runs.run import Run
from rlhf.stages import execute


def test_a_base_model_from_nothing(chain: Path) -> None:
    run = Run.open(chain / "almanac" / "base")
    assert run.manifest["parents"] == {}
    assert run.manifest["metrics"]["steps"] == 2
    assert 2 * 4 <= run.manifest["metrics"]["tokens"] <= 2 * 4 * 128  # two batches of four blocks
    assert run.manifest["data"]["text"]["train"]["rows"] == 24
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    model = AutoModelForCausalLM.from_pretrained(run.model)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.config.vocab_size == len(tokenizer) == 384
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    steps = [json.loads(line)["step"] for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 2]
    assert not (run.directory / "resume").exists()


def test_the_same_seed_gives_the_same_bits(chain: Path, settings: Callable[..., Settings], tmp_path: Path) -> None:
    first = Run.open(chain / "almanac" / "base")
    for name, seed in {"again": 0, "other": 1}.items():
        execute(settings("base", f"seed={seed}"), tmp_path / name)
    again, other = Run.open(tmp_path / "again"), Run.open(tmp_path / "other")
    assert again.manifest["weights"] == first.manifest["weights"]
    assert (again.directory / "metrics.jsonl").read_bytes() == (first.directory / "metrics.jsonl").read_bytes()
    assert other.manifest["weights"] != first.manifest["weights"]


def test_continued_pretraining(chain: Path, settings: Callable[..., Settings], tmp_path: Path) -> None:
    execute(settings("base", f"stage.policy={chain}/almanac/base"), tmp_path / "more")
    more = Run.open(tmp_path / "more")
    assert more.manifest["parents"]["policy"]["stage"] == "base"
    assert more.manifest["weights"] != Run.open(chain / "almanac" / "base").manifest["weights"]


def test_an_unknown_argument_of_the_trainer(settings: Callable[..., Settings], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stage.trainer.learning_rat is not an argument of TrainingArguments"):
        execute(settings("base", "+stage.trainer.learning_rat=1"), tmp_path / "base")
    with pytest.raises(ConfigError, match="stage.trainer.seed is decided by other settings"):
        execute(settings("base", "+stage.trainer.seed=1"), tmp_path / "base")
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_reported_before_a_model_exists(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.stages.base.new_policy", None)
    with pytest.raises(ConfigError, match="stage.trainer.warmup_steps must be a number, got 'few'"):
        execute(settings("base", "stage.trainer.warmup_steps=few"), tmp_path / "base")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_on_modules_that_are_not_there(
    chain: Path, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    given = ("adapter=lora", "adapter.target_modules=[nope]", f"stage.policy={chain}/almanac/base")
    with pytest.raises(ConfigError, match=r"adapter.target_modules=\['nope'\] cannot be used \(.*not found"):
        execute(settings("base", *given), tmp_path / "base")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_found(settings: Callable[..., Settings], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="policy=nobody/nothing cannot be loaded"):
        execute(settings("base", "stage.policy=nobody/nothing"), tmp_path / "base")
    assert list(tmp_path.iterdir()) == []


def test_a_new_model_needs_an_architecture(settings: Callable[..., Settings], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stage\.policy=null trains a new model, and model\.architecture is null"):
        execute(settings("base", "stage.policy=null", "model.path=nobody/nothing", "model.architecture=null"), tmp_path)
