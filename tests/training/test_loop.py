import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType
from transformers import TrainerCallback

from rlhf.config import Settings, Strategy
from rlhf.errors import ConfigError, TrainingError
from rlhf.runs.run import Run
from rlhf.stages import execute
from rlhf.storage.checksums import seal
from rlhf.storage.manifest import read_manifest
from rlhf.training import loop

LONG = ("stage.trainer.max_steps=6", "stage.trainer.save_steps=2")


def test_names_by_hand() -> None:
    logs = {"loss": 1, "eval_loss": 2, "eval_rewards/accuracies": 0.5, "eval_runtime": 3, "epoch": 1, "total_flos": 9}
    assert loop.rename(logs) == {"train/loss": 1.0, "eval/loss": 2.0, "eval/rewards/accuracies": 0.5}


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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+stage.trainer.optim=adamw_apex_fused"], r"stage.trainer cannot be used"),
        (["+stage.trainer.lr_scheduler_kwargs.bend=1"], r"stage.trainer cannot be used \(.* 'bend'\)"),
        (
            ["stage.trainer.max_steps=-1", "stage.trainer.warmup_steps=1000"],
            "warmup_steps=1000 is longer than the training",
        ),
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
        manifest={"settings": {"hardware": {"oom_retry": False}, "stage": {"early_stopping": None}}},
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


@pytest.mark.parametrize(("stage", "adapter"), [("base", "none"), ("sft", "lora"), ("dpo", "lora")])
def test_training_stops_early_and_names_the_step_that_it_keeps(
    beside_chain: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture, stage: str, adapter: str
) -> None:
    """At a learning rate at which the held-out loss soon grows."""
    early = ("stage.early_stopping=1", "stage.trainer.eval_strategy=steps", "stage.trainer.save_steps=1")
    own = ("stage.trainer.max_steps=12", "stage.trainer.learning_rate=3", "stage.trainer.lr_scheduler_type=constant")
    given = ("stage.trainer.warmup_steps=0", f"adapter={adapter}", "stage.sample_prompts=0", "eval_set.prompts=0")
    final = execute(beside_chain(stage, *early, *own, *given), tmp_path / "run")
    held_out = [(one["step"], one["eval/loss"]) for one in lines(Run.open(tmp_path / "run")) if "eval/loss" in one]
    best, lowest = min(held_out[:-1], key=lambda pair: pair[1])
    assert final["best_step"] == best < final["steps"] < 12
    assert final["eval/loss"] == held_out[-1][1] == pytest.approx(lowest)
    said = f"{stage}: the weights of step {best} of {int(final['steps'])} are kept: the held-out loss was lowest then"
    assert said in capsys.readouterr().out
