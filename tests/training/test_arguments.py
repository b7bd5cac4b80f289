from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import trl
from transformers import TrainingArguments
from trl import DPOConfig, RewardConfig, SFTConfig

from rlhf.config import Settings
from rlhf.config.ranges import REFUSED
from rlhf.errors import ConfigError
from rlhf.training.arguments import arguments, check
from tests.conftest import composed


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


@pytest.mark.parametrize("kind", [DPOConfig, RewardConfig])
def test_label_smoothing_that_a_trainer_of_pairs_ignores_is_refused(kind: type) -> None:
    with pytest.raises(ConfigError, match=r"label_smoothing_factor=0.1 is not used, since stage\.label_smoothing does"):
        check(kind, {"label_smoothing_factor": 0.1})
    check(SFTConfig, {"label_smoothing_factor": 0.1})


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


def test_what_the_configuration_of_a_trainer_refuses_is_told(settings: Callable[..., Settings]) -> None:
    refused = settings("sft", "stage.trainer.lr_scheduler_type=bent")
    with pytest.raises(ConfigError, match=r"stage.trainer cannot be used \(bent is not a valid SchedulerType"):
        arguments(trl.SFTConfig, refused, SimpleNamespace(scratch=Path("unused")))


@pytest.mark.parametrize("stage", ["base", "sft", "reward", "dpo"])
def test_early_stopping_evaluates_and_keeps_every_checkpoint(settings: Callable[..., Settings], stage: str) -> None:
    place = SimpleNamespace(scratch=Path("unused"))
    kind = {"sft": SFTConfig, "reward": RewardConfig, "dpo": DPOConfig}.get(stage, TrainingArguments)
    plain = arguments(kind, settings(stage), place)
    assert not plain.load_best_model_at_end
    every = ("stage.trainer.eval_strategy=steps", "stage.trainer.save_steps=7")
    early = arguments(kind, settings(stage, "stage.early_stopping=3", *every), place)
    assert (early.load_best_model_at_end, early.metric_for_best_model, early.greater_is_better) == (
        True, "eval_loss", False,
    )  # fmt: skip
    assert early.eval_steps == early.save_steps == 7
    assert arguments(kind, settings(stage, every[0], "stage.trainer.eval_steps=3"), place).eval_steps == 3
