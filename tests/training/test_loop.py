import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import trl
from accelerate import DistributedType
from transformers import TrainerCallback
from trl import DPOConfig, RewardConfig, SFTConfig

from rlhf.config import Settings, Strategy
from rlhf.config.ranges import REFUSED
from rlhf.errors import ConfigError, TrainingError
from rlhf.runs.run import Run
from rlhf.stages import execute
from rlhf.storage.checksums import seal
from rlhf.storage.manifest import read_manifest
from rlhf.training import loop
from rlhf.training.arguments import arguments, check
from tests.conftest import composed

LONG = ("stage.trainer.max_steps=6", "stage.trainer.save_steps=2")


@pytest.mark.parametrize("experiment", ["hh", "tldr-pythia", "ultrafeedback-zephyr"])
@pytest.mark.parametrize("kind", [SFTConfig, RewardConfig, DPOConfig])
def test_large_models_are_trained_with_activation_checkpointing(experiment: str, kind: type, tmp_path: Path) -> None:
    stage = kind.__name__.removesuffix("Config").lower()
    settings = composed(f"experiment={experiment}", f"stage={stage}", "hardware=cpu")
    assert arguments(kind, settings, SimpleNamespace(scratch=tmp_path)).activation_checkpointing is True


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "+stage.trainer.gradient_checkpointing=true",
            "stage.trainer.gradient_checkpointing=True has a new name: "
            "set stage.trainer.activation_checkpointing instead",
        ),
        ("+stage.trainer.learning_rat=1", "stage.trainer.learning_rat is not an argument of SFTConfig"),
        ("+stage.trainer.data_seed=1", "stage.trainer.data_seed is decided by other settings"),
    ],
)
def test_an_argument_that_the_trainer_would_pass_over_is_refused(
    settings: Callable[..., Settings], tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        arguments(SFTConfig, settings("sft", override), SimpleNamespace(scratch=tmp_path))


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_ctrl_c_leaves_a_checkpoint_and_resuming_changes_nothing(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    execute(beside_chain(stage, *LONG), tmp_path / "whole")

    class PressCtrlC(TrainerCallback):
        def on_step_begin(self, args, state, control, **_) -> None:
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGINT)

    build = loop.Reporter
    with monkeypatch.context() as patched:
        patched.setattr(loop, "Reporter", lambda *args: _with(build(*args), PressCtrlC()))
        with pytest.raises(KeyboardInterrupt):
            execute(beside_chain(stage, *LONG), tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
    assert read_manifest(tmp_path / ".cut.partial")["status"] == "interrupted"

    execute(beside_chain(stage, *LONG, "resume=true"), tmp_path / "cut")
    whole, cut = Run.open(tmp_path / "whole"), Run.open(tmp_path / "cut")
    assert cut.manifest["resumed"]
    assert cut.manifest["weights"] == whole.manifest["weights"]
    assert cut.manifest["metrics"] == whole.manifest["metrics"]
    assert lines(cut) == lines(whole)


def _with(reporter: loop.Reporter, other: TrainerCallback) -> loop.Reporter:
    reporter.on_step_begin = other.on_step_begin
    return reporter


def lines(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]


LONGER = ("stage.trainer.max_steps=25",)


def test_a_loss_that_is_not_a_number_stops_the_run(beside_chain: Callable[..., Settings], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="lower stage.trainer.learning_rate"):
        execute(
            beside_chain(
                "sft", *LONG, "stage.trainer.learning_rate=10", "stage.trainer.weight_decay=10",
                "stage.trainer.warmup_steps=0", "stage.trainer.lr_scheduler_type=constant", *LONGER,
            ),
            tmp_path / "sft",
        )  # fmt: skip
    assert not (tmp_path / "sft").exists()


QUOTES = "put it in quotes, as in \"stage.trainer.run_name='...'\""


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        (
            "push_to_hub",
            True,
            f"cannot be set, since {REFUSED['push_to_hub']}: leave it out",
        ),
        (
            "run_name",
            1.1,
            f"must be text, got 1.1: {QUOTES}",
        ),
        ("learning_rate", "fast", "must be a number, got 'fast'"),
        ("learning_rate", None, "must be a number, got None"),
        ("max_steps", 2.5, "must be a whole number, got 2.5"),
        ("max_length", "long", "must be a whole number or null, got 'long'"),
        ("max_length", 0, "must be positive, got 0"),
        ("gradient_accumulation_steps", 0, "must be positive, got 0"),
        ("num_train_epochs", -1, "must be positive, got -1"),
        ("padding_free", 1, "must be true or false, got 1"),
        ("learning_rat", 1, "is not an argument of SFTConfig: remove it or correct its name"),
        ("seed", 1, "is decided by other settings: remove it from stage.trainer"),
    ],
)
def test_a_wrong_value_for_a_trainer_names_key_and_value(key: str, value: object, rule: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(trl.SFTConfig, {"weight_decay": 0.1, key: value}, {"seed": 0})
    assert str(error.value) == f"stage.trainer.{key} {rule}"


def test_a_refusal_of_the_trainers_configuration_is_reported(settings: Callable[..., Settings]) -> None:
    refused = settings("sft", "stage.trainer.lr_scheduler_type=bent")
    with pytest.raises(ConfigError, match=r"stage.trainer cannot be used \(bent is not a valid SchedulerType"):
        arguments(trl.SFTConfig, refused, SimpleNamespace(scratch=Path("unused")))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+stage.trainer.optim=adamw_apex_fused"], r"stage.trainer cannot be used"),
        (["+stage.trainer.lr_scheduler_kwargs.bend=1"], r"stage.trainer cannot be used \(.* 'bend'\)"),
        (["stage.trainer.max_steps=-1", "stage.trainer.warmup_steps=1000"], "warmup_steps=1000 is above the .* steps"),
    ],
)
def test_errors_from_settings_when_training_starts_are_reported(
    settings: Callable[..., Settings], tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        execute(settings("base", *overrides), tmp_path / "base")
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_middle_of_training_is_not_blamed_on_settings(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise TypeError("a defect")

    monkeypatch.setattr(loop, "generate", broken)
    with pytest.raises(TypeError, match="a defect"):
        execute(beside_chain("sft", "stage.sample_every=1"), tmp_path / "sft")


def test_an_unreadable_checkpoint_is_not_blamed_on_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "trainer_state.json").write_text('{"global_step": 1, "max_steps": 2}')
    (tmp_path / "checkpoint-1" / "logs.json").write_text("{}")
    seal(tmp_path / "checkpoint-1")

    def torn(**_: object) -> None:
        raise ValueError("torn")

    trainer = SimpleNamespace(
        args=SimpleNamespace(output_dir=tmp_path, device=torch.device("cpu"), learning_rate=1e-3),
        accelerator=SimpleNamespace(num_processes=1, distributed_type=DistributedType.NO),
        remove_callback=lambda _: None,
        add_callback=lambda _: None,
        model=torch.nn.Linear(1, 1),
        train=torn,
    )
    run = SimpleNamespace(
        stage="sft",
        resumed=True,
        scratch=tmp_path,
        rewind=lambda *_: None,
        strategy=Strategy.none,
        manifest={"settings": {"hardware": {"oom_retry": False}}},
    )
    monkeypatch.setattr(loop, "ExactEvaluation", lambda trainer: None)
    with pytest.raises(ValueError, match="torn"):
        loop.train(trainer, run)


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_mistakes_of_a_stage_are_told(
    beside_chain: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    with pytest.raises(ConfigError, match="adapter.target_modules={'nope'} cannot be used"):
        execute(beside_chain(stage, "adapter=lora", "adapter.target_modules=[nope]"), tmp_path / stage)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("rlhf.modeling.loading.load_policy", None)  # the rest before a model is loaded
    with pytest.raises(ConfigError, match="stage.trainer.learning_rate must be a number, got 'fast'"):
        execute(beside_chain(stage, "stage.trainer.learning_rate=fast"), tmp_path / stage)


def test_a_policy_that_has_hardly_moved_is_reported(capsys: pytest.CaptureFixture) -> None:
    loop.tell_unmoved("dpo", 0.2, "stage.trainer.learning_rate", 5e-7)
    assert capsys.readouterr().out == ""
    loop.tell_unmoved("dpo", 0.005, "stage.trainer.learning_rate", 5e-7)
    out = capsys.readouterr().out
    assert "dpo: the policy has hardly moved, a response's log-probability by 0.005 nats: raise stage.trainer" in out
