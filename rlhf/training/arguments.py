"""Making and checking the arguments of the trainers of TRL and transformers."""

from collections.abc import Container, Sized
from dataclasses import fields
from math import ceil
from typing import Any, cast, get_type_hints

from transformers import Trainer, TrainingArguments

from rlhf.config import Dtype, Hardware, Settings, Strategy, TrainerStage
from rlhf.config.library_errors import blame
from rlhf.config.ranges import require_trainer, require_warmup
from rlhf.config.rules import NUMBERS, require_type
from rlhf.console import console
from rlhf.errors import ConfigError
from rlhf.hardware import precision, ranks
from rlhf.hardware.device import torch_device
from rlhf.runs.run import Run

# Old names that transformers accepts but ignores if the new name is set, as in conf/stage/.
RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
# TRL reads these only for rows that it tokenizes itself.
INSTEAD = dict.fromkeys(
    ("assistant_only_loss", "completion_only_loss"),
    "since stage.turns=all trains on every turn of the assistant and stage.turns=last on the last one",
)
# Of stage.early_stopping: the weights with the lowest held-out loss are loaded at the end.
BEST = {
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
    "greater_is_better": False,
    "restore_callback_states_from_checkpoint": True,  # a resumed run keeps its patience counter
}
# FSDP2 wraps each block of layers; a full state dict in a checkpoint can be read by any number of processes.
FSDP = {"version": 2, "reshard_after_forward": True, "state_dict_type": "FULL_STATE_DICT"}


def arguments(
    kind: type[TrainingArguments], settings: Settings, run: Run, *, part: str = "", **ours: Any
) -> TrainingArguments:
    """Return ``kind(**stage.trainer)`` with the arguments that the other settings decide: paths, seeds, precision.

    ``part`` names one of several trainings of a run, which has separate checkpoints.

    Raises:
        ConfigError: ``stage.trainer`` has a name that is unknown, outdated or decided by other settings, or a value of
            the wrong type or out of range.
    """
    stage = settings.stage_as(TrainerStage)
    given = stage.trainer
    device = torch_device(settings.hardware).type
    on_gpu = device == "cuda"
    decided: dict[str, Any] = {
        "output_dir": str(run.scratch / part),
        "seed": settings.seed,
        "data_seed": settings.seed,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
        "bf16": precision.autocasts(settings) or (on_gpu and settings.model.dtype is Dtype.bfloat16),
        "fp16": on_gpu and settings.model.dtype is Dtype.float16,
        "save_strategy": "steps",
        "save_total_limit": 2,
        "dataloader_pin_memory": on_gpu,
        "include_num_input_tokens_seen": "non_padding",  # checkpoints include the count
    }
    decided |= sharing(settings.hardware, given, on_gpu) | ours
    if stage.early_stopping is not None:
        decided |= BEST
        given = given | {"eval_steps": given.get("save_steps", 500)}  # the best is loaded from its checkpoint
    check(kind, given, decided)
    with blame("stage.trainer"):
        return kind(**decided, **given)


def sharing(hardware: Hardware, given: dict[str, Any], on_gpu: bool) -> dict[str, Any]:
    """Return the arguments that several processes need; empty for one.

    As in TRL, ``per_device_train_batch_size`` counts rows per process: two processes with 8 take the steps of one
    with 16.
    """
    strategy = ranks.strategy_of(hardware)
    if strategy is Strategy.fsdp:
        return {"fsdp": True, "fsdp_config": dict(FSDP)}
    if strategy.sharded:
        stage = 2 if strategy is Strategy.deepspeed_zero2 else 3
        zero = {"stage": stage} | ({"stage3_gather_16bit_weights_on_model_save": True} if stage == 3 else {})
        automatic = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
        half = {"bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}}
        return {"deepspeed": {"zero_optimization": zero} | half | dict.fromkeys(automatic, "auto")}
    if not ranks.started():
        return {}
    backend = {} if on_gpu else {"ddp_backend": "gloo"}
    # Every trained parameter has a gradient in every step; a search for others costs time and causes a warning.
    return backend if "ddp_find_unused_parameters" in given else backend | {"ddp_find_unused_parameters": False}


def check(kind: type[TrainingArguments], given: dict[str, Any], decided: Container[str] = ()) -> None:
    """Check names in ``stage.trainer``, and values that ``kind`` does not validate.

    Raises:
        ConfigError: a name is unknown, outdated or decided by other settings, or a value is invalid.
    """
    known = {field.name for field in fields(kind) if field.init}
    hints = get_type_hints(kind)
    for key, value in given.items():
        if key in RENAMED:
            raise ConfigError(f"stage.trainer.{key}={value} has a new name: set stage.trainer.{RENAMED[key]} instead")
        if key not in known:
            raise ConfigError(
                f"stage.trainer.{key} is not an argument of {kind.__name__}: remove it or correct its name"
            )
        if key in INSTEAD:
            raise ConfigError(f"stage.trainer.{key}={value} is not used, {INSTEAD[key]}: remove it")
        if key in decided:
            raise ConfigError(f"stage.trainer.{key} is decided by other settings: remove it from stage.trainer")
        require_type(f"stage.trainer.{key}", value, hints[key], NUMBERS)
    require_trainer(given)


def build(kind: type[Trainer], **parts: Any) -> Trainer:
    """Return ``kind(**parts)``.

    Raises:
        ConfigError: the trainer refuses its arguments, the adapter's target modules do not match any module of the
            model, or the warm-up is longer than the training.
    """
    adapter = parts.get("peft_config")
    targets = "" if adapter is None else f" or adapter.target_modules={adapter.target_modules}"
    with blame(f"stage.trainer{targets}"):
        trainer = kind(**parts)
    _check_steps(trainer)
    return trainer


def _check_steps(trainer: Trainer) -> None:
    """Refuse a warm-up that is longer than the training; print a line if the learning rate is 0."""
    args, dataset = trainer.args, cast("Sized", trainer.train_dataset)
    rows = args.train_batch_size * args.world_size * args.gradient_accumulation_steps  # per step
    steps = ceil(ceil(len(dataset) / rows) * args.num_train_epochs)
    require_warmup(args.warmup_steps, args.max_steps if args.max_steps > 0 else steps)
    if args.learning_rate == 0:
        console.print("stage.trainer.learning_rate=0: the weights stay unchanged", highlight=False)
